//! Answers in harmless words, with styling, units and headings around them. All of them are right.

use crate::math::tests::is_right;

/// The parts of a table, which stand between bars. `⏎` is the end of a line.
fn parts(table: &str) -> impl Iterator<Item = String> {
    table
        .split('|')
        .map(|part| part.trim_matches('\n').trim_end().replace('⏎', "\n"))
        .filter(|part| !part.is_empty())
}

/// Said of 12, in all frames.
const SAID: &str = r##"
12|12.|$12|12 dollars|12 apples|12 red apples|12 square units|12 square meters|12 cm|12 km per hour|
12 cups of flour|12 boxes of pens|12 students in total|12 ways in total|12 ways|12 different ways|
12 possible outcomes|12 people|12 children|12 women|12 in all|12 altogether|12 overall|12 in total|12 total|
12 apples in the basket|12 miles from home|12 dollars for lunch|12 dollars on food|12 days per week|
12 hours a day|12 hours every day|12 times|12 times a week|12 years old|12 feet tall|12 inches long|12 cm wide|
12 meters away|12 points|12 (apples)|12 (in dollars)|12 (exactly)|12 (since 6 + 6 = 12)|12, because 6 + 6 = 12|
12 because 6 + 6 = 12|12, as 6 * 2 = 12|12 as required|12, as desired|12, as expected|12, which is 6 + 6|
12, which is even|12, as shown above|12 by symmetry|12, so we are done|approximately 12|about 12|roughly 12|
around 12|exactly 12|precisely 12|simply 12|just 12|only 12|clearly 12|therefore 12|thus 12|indeed 12|
equal to 12|x = 12|x=12|n = 12|the number 12|the integer 12|the value 12|a total of 12|a total of 12 apples|
**12**|`12`|'12'|$12$|\(12\)|$x = 12$|12 minutes|12 percent|12%|12 degrees|12 units|12 cents|12 pounds|
12 liters of water|12 gallons|12 quarts|12 slices of pizza|12 pages each day|12 blocks|12 marbles each|
12 oranges left|12 oranges remaining
"##;

/// Sentences that say 12, in tags and behind `####`.
const SENTENCES: &str = r##"
The total is 12|The total is 12 apples|The total cost is $12|The total number of apples is 12|
Tom has 12 marbles|Tom planted 12 trees|She baked 12 cakes|Mary picked 12 flowers in total|They caught 12 fish|
Anna read 12 books|He wrote 12 letters|We need 12 eggs|It takes 12 hours|It costs 12 dollars|There are 12 ways|
There are 12 students|There are exactly 12 solutions|There were 12 birds|We get 12|We get x = 12|
We have x = 12|We find that x = 12|Therefore, the value of x is 12|Thus x = 12|So, 12|Hence 12|
Hence, the total is 12|So the answer is 12|The answer is 12|Answer: 12|The final answer is 12|Final answer: 12|
The correct answer is 12|It is 12|It is 6 + 6 = 12|6 + 6 = 12|6*2 = 12|The sum is 12|The sum of 5 and 7 is 12|
The product is 12|The difference is 12|The area is 12 square units|The perimeter is 12 cm|The speed is 12 km/h|
The probability is 12%|The value is 12|The result is 12|The solution is x = 12|The number of ways is 12|
The minimum value is 12|The maximum is 12|The maximum value of f is 12|The smallest such integer is 12|
The remainder is 12|The length of AB is 12|The square root of 144 is 12|In total, there are 12 students|
In conclusion, the answer is 12|After 3 days, he has 12 apples|John will have 12 apples left|John earns $12|
John earns 12 dollars per hour|She spends 12 dollars|He pays 12 dollars in total|Each person gets 12 cookies|
Each child receives 12 candies|The train travels 12 miles|He ran 12 miles|The store sold 12 shirts|
The recipe uses 12 eggs|The box contains 12 pencils|Together they have 12 coins|Her age is 12|
Her age is 12 years|Sam is 12 years old|The tank holds 12 gallons|Yes, 12|Yes, it is 12|2x = 24, so x = 12|
2x = 24 so x = 12|Because 2x = 24, we have x = 12|x + 1 = 13, hence x = 12|Adding up gives 12|This gives 12|
This gives us 12|That makes 12|That leaves 12 apples|This equals 12|which gives 12|which is 12|giving 12|
12 is the answer|12 is correct|12 is the correct answer|The answer would be 12|The answer must be 12|
The answer turns out to be 12|The answer comes out to be 12|The answer should be 12|The required number is 12|
The desired sum is 12|The cost of the pens is 12 dollars|The number of students who like math is 12|I got 12|
I get 12|My answer is 12|Our answer is 12|Solution: 12|Result: 12|Total: 12|Total cost: $12|Value: 12|Ans: 12|
Ans. 12|ANSWER: 12|Final: 12|Final result: 12|The ratio is 12|f(3) = 12|P = 12|Area = 12|Total = 12|Cost = $12|
Total = 6 + 6 = 12|Number of apples = 12|answer = 12
"##;

/// Whole completions that answer with 12.
const WHOLE: &str = r##"
The answer is therefore 12.|The answer is thus 12.|The answer, then, is 12.|The answer, therefore, is 12.|
The answer in simplest form is 12.|The answer in dollars is 12.|
The answer rounded to the nearest integer is 12.|The answer to this problem is 12.|
The answer to the problem is: 12|The answer to part (b) is 12.|The answer will be 12.|
The answer must therefore be 12.|The answer becomes 12.|The answer comes to 12.|The answer works out to 12.|
The answer equals 12.|The answer = 12|The answer is = 12|The answer is then 12.|The answer is as follows: 12|
The answer is given by 12.|The answer is given by 6 + 6 = 12.|The answer is $6+6=12$.|
The answer is 6 + 6 = 12.|The answer is: 12|The answer is:⏎12|The answer is:⏎⏎12|The answer is:⏎$$12$$|
The answer is:⏎\[12\]|The answer is:⏎\[ x = 12 \]|Answer:⏎12|Answer⏎12|**Answer**⏎12|**Answer**: 12|
**Answer:** **12**|__Answer__: 12|*Answer:* 12|### Answer⏎12|### Final Answer⏎12|## Answer: 12|### Answer: 12|
Final Answer: 12|Final answer - 12|Final Answer → 12|FINAL ANSWER: 12|
Final Answer: The final answer is 12. I hope it is correct.|
Final Answer: The final answer is $12$. I hope it is correct.|The answer is $12$. I hope it is correct.|
So the answer is 12. This is correct.|So the answer is 12. Done.|So the answer is 12. QED|
So the answer is 12.⏎⏎Let me know if you have questions.|Therefore, the answer is 12. Hope this helps!|
The answer is **12**.|The answer is **12 apples**.|The answer is *12*.|The answer is `12`.|The answer is 12 .|
The answer is 12 ✓|The answer is 12 \checkmark|Thus the answer is 12 </s>|The answer is 12<im_end>|
The answer is 12<endoftext>|My final answer is 12.|Our final answer is 12.|I conclude the answer is 12.|
We conclude that the answer is 12.|I think the answer is 12.|I believe the answer is 12.|
We see that the answer is 12.|It follows that the answer is 12.|This means the answer is 12.|
This shows that the answer is 12.|Now we know the answer is 12.|so answer is 12|Hence answer: 12|
Hence the required answer is 12.|The numerical answer is 12.|The exact answer is 12.|The right answer is 12.|
The correct answer is therefore 12.|The only possible answer is 12.|The only answer is 12.|
The simplified answer is 12.|The best answer is 12.|Answer is 12|answer: 12|ANS: 12|Ans: 12|
Therefore 12 is the answer.|So 12 is our answer.|Thus, 12 is the final answer.|12 is the answer.|
12 is therefore the answer.|Hence, 12 is the correct answer.|So the final answer is indeed 12.|
So the final answer is clearly 12.|So the final answer is still 12.|We get 12.|So x = 12.|Thus, x = 12.|
Total: 12|Total = 12|It is 12.|She has 12 apples.|She has 12 apples left.|He needs 12 more.|So in total 12.|
In total, she paid $12.|That's 12!|12|12 apples|**12**|$12$|\[12\]|x = 12|x=12|= 12|→ 12|=> 12|∴ 12|∴ x = 12|
Therefore x equals 12.|The value of x is 12.|So he will have $12 left.|The train takes 12 hours to arrive.|
It is not 13; the answer is 12.|The answer is 12, not 13.|The answer is 12 and not 13.|
The answer is 12 rather than 13.|The answer is 12 instead of 13.|
At first I thought it was 13, but the answer is 12.|If x = 3 then the answer is 12.|
Since no other value works, the answer is 12.|Since it cannot be 13, the answer is 12.|
Without the fee, the answer is 12.|Let me double check: the answer is 12.|Wait, the answer is 12.|
No, the answer is 12.|The answer is 13. Wait, no: the answer is 12.|Actually, the answer is 12.|
I made a mistake. The answer is 12.|Not 13. The answer is 12.|Therefore, John has 12 apples. The answer is 12.|
The answer: 12|The answer — 12|The answer – 12|The answer - 12|The answer, 12, is even.|
The answer 12 is correct.|The answer of 12 is correct.
"##;

/// Answers below headings.
const HEADED: &str = r##"
#### Solution\⏎We add 6 and 6.\⏎\⏎So the total is 12.|#### Step 5: Conclude\⏎Therefore 12.|
#### Step 1\⏎6+6\⏎#### Step 2\⏎=12|#### 3. Total\⏎6 + 6 = 12|#### Compute the total\⏎6 + 6 = 12|
#### Verification\⏎12 - 6 = 6, fine.\⏎\⏎The answer is 12.|#### Part (c)\⏎The value is 12.|#### Answer: 12|
#### Answer: **12**|#### Final Answer: $12$|#### The answer is 12|#### The final answer is: 12|#### 12 apples|
#### $12|#### **12**|####12|#### 12.|#### 12 .|#### x = 12|#### =12|#### Total: 12 dollars|
#### Total cost = $12|#### So, 12|#### Therefore, 12|#### Step 3: Final answer\⏎12|###### 12|
### Step 1\⏎Add.\⏎### Step 2\⏎So 12|#### **Step 2: Solve**\⏎x = 12|#### Case 2: x > 0\⏎x = 12|
#### Explanation\⏎6+6 = 12|#### Check\⏎6 + 6 = 12|#### Calculation:\⏎6 + 6 = 12 dollars|#### Final Result: 12
"##;

/// What a box may hold around 12.
const BOXED: &str = r##"
12|=12|= 12|x=12|\approx 12|\approx12|\sim 12|\simeq 12|\therefore 12|\therefore x = 12|\Rightarrow 12|
\Rightarrow x=12|\implies 12|\to 12|\rightarrow 12|\Longrightarrow x = 12|2x=24 \Rightarrow x=12|
2x=24 \implies x=12|2x = 24 \to x = 12|2x=24\Longrightarrow x=12|x^2=144, x>0 \Rightarrow x=12|x-1=11\iff x=12|
x+y=12|a+b=5+7=12|m+n=12|a + b + c = 12|5+7=12|6\cdot 2=12|\frac{24}{2}=12|S=12|S_n=12|S_{10} = 12|a_5=12|
f(2)=12|f(x)=12|f'(1)=12|g(f(2)) = 12|N=12|n=12|T_{max}=12|x_{\min}=12|\min f = 12|\max = 12|\max f(x)=12|
\max\{a,b\}=12|\text{max}=12|AB=12|\overline{AB}=12|AB = 12\text{ cm}|\angle ABC=12^\circ|\angle A = 12|
m\angle A=12^\circ|P(A)=12|P(X=1)=12|P(X\ge 2)=12|P(A \cap B)=12|\Pr[X=1]=12|E[X]=12|E(X)=12|\mathbb{E}[X]=12|
\operatorname{Var}(X)=12|\text{Var}(X)=12|\sigma = 12|\mu=12|\lambda=12|\theta=12^\circ|\lim_{x\to0}f(x)=12|
\lim_{n\to\infty} a_n=12|\int_0^1 f=12|\int_a^b f(x)dx=12|\sum_{k=1}^n a_k=12|\sum a_i = 12|\prod_{i=1}^3 i=12|
\det A=12|\det(A)=12|\operatorname{tr}(A)=12|\dim V=12|\operatorname{rank}(A) = 12|\gcd(a,b)=12|
\operatorname{lcm}(a,b)=12|\gcd(24,36)=12|\deg p = 12|n(A)=12|n(A\cup B)=12|\#S=12|\vec{a}\cdot\vec{b}=12|
\frac{dy}{dx}=12|\frac{a}{b}=12|\text{Answer: }12|\text{Answer}=12|\text{Ans}=12|\text{Answer is }12|
\text{The answer is }12|\text{The answer is: } 12|\text{Final answer: }12|\text{Total}=12|\text{Total: }12|
\text{Total cost}=12|\text{Area}=12|\text{Area} = 12 \text{ cm}^2|\text{Number of ways}=12|
\text{number of ways: }12|\text{Sum}=12|\text{so }12|\text{So, }12|\text{thus } x=12|\text{Hence } 12|
\text{therefore } 12|\text{about }12|\text{approx. }12|\text{approximately }12\text{ km}|\text{exactly }12|
\text{There are }12|\text{There are }12\text{ solutions}|\text{We get }12|\text{we have } x=12|
\text{Tom has }12\text{ apples}|\text{Yes}, 12|\text{Yes: }12|\text{value }12|\text{the value is }12|
\text{the number }12|12\text{ apples}|12\text{ ways}|12 \text{ in total}|12\text{ total}|12 \text{ (apples)}|
12 \text{ (total)}|12\;(\text{dollars})|12\,\text{(in cm)}|12\ (\text{units})|12 \text{ dollars each}|
12\text{ square units}|12\text{ sq. units}|12\text{ units}^2|12\text{ cubic cm}|12\text{ years old}|
12\text{ students per class}|12 \text{ for all } n|12 \quad \text{for all } x|
12\text{ for every } n \in \mathbb{N}|12\checkmark|12\ \checkmark|12\;\blacksquare|12\ \square|12.|12,|12;|
12\\|12\,|\ 12|\quad 12 \quad|{12}|{{12}}|(12)|\left(12\right)|$12$|\(12\)|\[12\]|\$12|12\$|\$12.00|\$\,12|
\text{\$}12|12\text{ USD}|\text{Rs. }12|\text{Rs }12|₹12|€12|12€|£12|12\text{ dollars}|\textdollar 12|12\%|
12 \%|12\text{ percent}|12^\circ|12°|12\degree|12^{\circ}|12\text{ degrees}|12\text{ radians}|+12|\mathbf{12}|
\boldsymbol{12}|\textbf{12}|\textit{12}|\text{12}|\mathrm{12}|\mathit{12}|\mathsf{12}|\texttt{12}|\mathtt{12}|
\mathcal{12}|\mathfrak{12}|\underline{12}|\underline{\mathbf{12}}|\boxed{12}|\fbox{12}|\framebox{12}|
\color{red}12|\color{red}{12}|{\color{blue}12}|{\color{blue}{12}}|\textcolor{blue}{12}|
\textcolor{blue}{\mathbf{12}}|\colorbox{yellow}{12}|\colorbox{yellow}{$12$}|\fcolorbox{red}{white}{12}|
\color[HTML]{FF0000}12|\color{#f00}12|\color{#ff0000}{12}|\Large 12|\large{12}|\Huge 12|{\Large 12}|
{\LARGE\mathbf{12}}|\huge{\textbf{12}}|\bf 12|{\bf 12}|{\it 12}|\rm 12|\displaystyle 12|\textstyle 12|
\normalsize 12|\small 12|\emph{12}|\textsf{12}|\textsc{12}|\textup{12}|\mathop{12}|\mathbin{12}|\mathrel{12}|
\mathinner{12}|\operatorname{12}|\phantom{-}12|\phantom{0}12|\hphantom{x}12|\hspace{1em}12|\hspace{-1pt}12|
\hfill 12|\,12\,|\!12|12\!|~12~|12\tag{1}|12\tag*{}|12\label{a}|12\nonumber|12\notag|\nonumber 12|
\left.12\right.|\bigl(12\bigr)|\Big(12\Big)|\overset{!}{=}12|\stackrel{!}{=}12|\underbrace{12}|
\underbrace{12}_{n}|\overbrace{12}^{x}|\ensuremath{12}|\mbox{12}|\hbox{12}|\vcenter{12}|
\begin{aligned}12\end{aligned}|\begin{aligned}x&=12\end{aligned}|\begin{align*}x&=12\end{align*}|
\begin{gathered}12\end{gathered}|\begin{array}{c}12\end{array}|\begin{split}x&=12\end{split}|
\begin{equation}12\end{equation}|\begin{aligned}a&=5+7\\&=12\end{aligned}|\enclose{circle}{12}|
\require{cancel}12|\mathbf{x = 12}|\mathbf{x} = \mathbf{12}|\text{x = 12}|\textbf{x = 12}|\text{x}=12|
\mathrm{x}=12|x \stackrel{def}{=} 12|x\ =\ 12|12_{10}|12.0|12.00|12.|1.2\times10^1|1.2e1|1.2\cdot 10^{1}|
\frac{12}{1}|\frac{24}{2}|24/2|\sqrt{144}|2^2\cdot3|3\times 4|3!\times2|\binom{12}{1}|１２
"##;

/// Completions that choose C.
const CHOSEN: &str = r##"
C|(C)|C.|**C**|**C.**|**(C)**|$C$|$\text{C}$|\boxed{C}|\boxed{(C)}|\boxed{\text{C}}|\boxed{\text{(C)}}|
\boxed{\textbf{C}}|\boxed{\mathrm{C}}|\boxed{\mathbf{(C)}}|\boxed{C.}|\boxed{C)}|\boxed{C: 14}|\boxed{C) 14}|
\boxed{C. 14}|\boxed{(C) 14}|\boxed{(C)\ 14}|\boxed{\textbf{(C)}\ 14}|\boxed{\textbf{(C) }14}|
\boxed{\text{Option C}}|\boxed{\text{option C}}|\boxed{\text{Choice C}}|\boxed{\text{Answer: C}}|
\boxed{\text{The answer is C}}|\boxed{C - 14}|\boxed{\text{C. Paris}}|\boxed{\text{C) Paris}}|
\boxed{\text{(C) Paris}}|\boxed{c}|The answer is C.|The answer is C|The answer is (C).|The answer is **C**.|
The answer is **(C)**|The answer is: C|The answer is $\text{C}$.|The answer is option C.|
The answer is option (C).|The answer is choice C.|The answer is C) 14.|The answer is C. 14|
The answer is (C) 14.|The answer is C: 14|The answer is C because A fails.|
The answer is C since it is the only prime.|The answer is C, because 7 is prime.|
The answer is C, as shown above.|The answer is therefore C.|The answer must be C.|The answer should be C.|
Answer: C|Answer: (C)|Answer:C|Answer C|ANSWER: C|Answer is C|**Answer: C**|**Answer:** C|**Answer:** (C) 14|
Answer: C) 14|Answer: C. Paris|Answer: Option C|Final answer: C|Final Answer: (C)|The final answer is C|
The correct answer is C.|The correct answer is (C) 14.|The correct option is C.|The correct option is (C).|
The correct option is **C**.|The correct option is: C|The correct choice is C.|The right answer is C.|
The best answer is C.|The best option is C.|Correct option: C|Correct answer: C|Option C is correct.|
Option C is the answer.|Option (C) is correct.|C is correct.|C is the answer.|C is the correct answer.|
(C) is the correct answer.|So C is the answer.|Thus, the answer is C|Therefore, the correct option is C.|
Hence option C is correct.|<answer>C</answer>|<answer>(C)</answer>|<answer>C.</answer>|<answer>C) 14</answer>|
<answer>Option C</answer>|<answer>The answer is C</answer>|<answer>The correct answer is (C) 14</answer>|
<answer>\boxed{C}</answer>|<answer>**C**</answer>|#### C|#### (C)|#### C. 14|#### Answer: C|#### Option C|
My answer is C.|The answer is C, not B.|The answer is C. 14 apples|The answer is (C) none of the above.|
The answer is (C) cannot be determined.|The answer is (C) at least 3.|\boxed{\text{(C) at most 5}}|
\boxed{\text{(C) increases}}|\boxed{\text{(C) It decreases}}|\boxed{\text{C. The ball falls faster}}|
\boxed{\text{C. They are equal}}|\boxed{\text{(C) only II}}|\boxed{\text{(C) I and II only}}|
The answer is C. The others fail.|The answer is C. A and B are wrong.|The answer is C: Paris.|
The answer is C — Paris|The answer is C – 14
"##;

/// A reference, and what is equal to it, with `~` between them.
const EQUAL: &str = r##"
3\frac12 ~ 3.5 ~ \frac72 ~ 3 1/2 ~ 3½ ~ 3\dfrac{1}{2} ~ 3\tfrac12|
-3\frac12 ~ -3.5 ~ -\frac72 ~ -3 1/2 ~ -3½ ~ -\left(3\frac12\right)|
66\frac23\% ~ \frac{200}{3}\% ~ 66.67\% ~ 66 2/3\% ~ \frac23|12\frac12\% ~ 12.5\% ~ 0.125 ~ \frac18|
\$4\frac14 ~ \$4.25 ~ 4.25 ~ 4\frac14|
37\frac12^\circ ~ 37.5^\circ ~ 37.5 ~ 37.5° ~ 37\frac{1}{2}\text{ degrees}|
2\frac13\text{ hours} ~ \frac73 ~ 2\frac13 ~ \frac{7}{3}\text{ hours} ~ 140\text{ min} ~ 140 minutes|
1\frac{3}{4}\text{ cups} ~ 1.75 ~ \frac74|-\frac{7}{3} ~ -2\frac13 ~ -2 1/3|
60\text{ km/h} ~ 60 km/h ~ 60\,\frac{\text{km}}{\text{h}} ~ 60\text{ kilometers per hour} ~ 60\text{ kph} ~ 60 ~ 60\ \mathrm{km\cdot h^{-1}} ~ 60\,\mathrm{km}/\mathrm{h}|
5\text{ m/s} ~ 5\,\mathrm{m\,s^{-1}} ~ 5\text{ m}\cdot\text{s}^{-1} ~ 5\text{ meters per second} ~ 18\text{ km/h} ~ 5\,m/s ~ 5 m s^{-1}|
9.8\text{ m/s}^2 ~ 9.8\,\text{m/s}^{2} ~ 9.8 m/s^2 ~ 9.8 m/s² ~ 9.8\,\frac{\text{m}}{\text{s}^2} ~ 9.8\,\mathrm{m}\,\mathrm{s}^{-2} ~ 9.8\text{ meters per second squared} ~ 9.8|
180\text{ min} ~ 3\text{ hours} ~ 3\text{ h} ~ 180\text{ minutes} ~ 180 min ~ 3 hr|
47\,\Omega ~ 47\text{ ohms} ~ 47\text{ ohm} ~ 47 Ω ~ 47\ \text{Ohms} ~ 47|
20^\circ\text{C} ~ 20°C ~ 20^\circ C ~ 20\text{ °C} ~ 20 ~ 20\text{ degrees Celsius} ~ 20^{\circ}\text{C} ~ 20\,^\circ\mathrm{C} ~ 20 degrees C|
6:45\text{ PM} ~ 6:45 PM ~ 6:45\text{ p.m.} ~ 6:45pm ~ 6:45 p.m. ~ 18:45 ~ 6:45\,\text{pm} ~ 6{:}45\text{ PM} ~ \text{6:45 PM} ~ 6\!:\!45\text{ PM}|
9:05\text{ AM} ~ 9:05 a.m. ~ 09:05 ~ 9:05 AM ~ 9:05am|
12\text{ cm}^2 ~ 12\text{ square centimeters} ~ 12 cm^2 ~ 12 cm² ~ 12\text{ sq cm} ~ 12 ~ 12\,\mathrm{cm}^{2}|
50\text{ cm}^3 ~ 50\text{ cubic centimeters} ~ 50\text{ mL} ~ 50 cm³ ~ 50|
3\text{ kg} ~ 3000\text{ g} ~ 3\,\mathrm{kg} ~ 3 kg ~ 3\text{ kilograms}|
0.5\text{ mol/L} ~ 0.5 ~ 0.5\text{ mol}/\text{L}|8\text{ ft} ~ 8\text{ feet} ~ 96\text{ inches}|
100\text{ N} ~ 100\text{ newtons} ~ 100\,\mathrm{N} ~ 100 N|250\text{ J} ~ 250\text{ joules} ~ 0.25\text{ kJ}|
5\text{ A} ~ 5\text{ amperes} ~ 5\text{ amps}|
\$15 ~ 15\text{ dollars} ~ 15 dollars ~ \$15.00 ~ 15\$ ~ \text{\$15} ~ 15\text{ USD}|
75\text{ cents} ~ \$0.75 ~ 75 cents ~ 75¢|45^\circ ~ 45 ~ 45\text{ degrees} ~ 45° ~ 45^{\circ} ~ 45\degree|
2\pi\text{ cm} ~ 2\pi ~ 2\pi\text{ centimeters}|25\% ~ 25 ~ 0.25 ~ 25\text{ percent} ~ 25 percent ~ \frac14|
\binom{n}{2} ~ \frac{n(n-1)}{2} ~ \frac{n^2-n}{2} ~ \frac{n!}{2!(n-2)!} ~ {n\choose 2} ~ C(n,2) ~ \dbinom{n}{2} ~ \tbinom n2|
\binom{5}{2} ~ 10 ~ C(5,2) ~ {}_5C_2 ~ {}^5C_2 ~ \frac{5!}{3!2!}|
n! ~ n(n-1)! ~ n\cdot(n-1)! ~ \frac{(n+1)!}{n+1}|(n+1)(n+2) ~ \frac{(n+2)!}{n!} ~ (n+2)!/n!|5! ~ 120|
2^{10} ~ 1024 ~ 2**10 ~ 2^10 ~ 4^5|x^3 ~ x**3 ~ x*x*x ~ x³ ~ x\cdot x\cdot x ~ x^{3}|
3x^2+2 ~ 3*x^2+2 ~ 3*x**2 + 2 ~ 3x²+2 ~ 2+3x^2|
3.0\times10^8 ~ 3 x 10^8 ~ 3e8 ~ 3 × 10⁸ ~ 300000000 ~ 3*10^8 ~ 3\cdot10^{8} ~ 300{,}000{,}000 ~ 300 million|
4.5\times10^{-3} ~ 0.0045 ~ 4.5e-3 ~ 4.5 x 10^-3 ~ 4.5E-3|
\frac13 ~ 0.\overline{3} ~ 0.\dot3 ~ 0.(3) ~ 0.333\ldots ~ 0.3333... ~ 0.33\overline{3} ~ 0.333…|
\frac{1}{6} ~ 0.1\overline{6} ~ 0.1(6) ~ 0.1666... ~ 0.1\dot{6} ~ 0.16\overline{6}|
\frac{5}{11} ~ 0.\overline{45} ~ 0.(45) ~ 0.4545... ~ 0.\dot{4}\dot{5}|1 ~ 0.\overline{9}|
3 \pmod 5 ~ 3 ~ x\equiv3\pmod5 ~ x \equiv 3 \pmod{5} ~ 3\bmod5 ~ 3 (mod 5) ~ n\equiv 8\pmod 5 ~ x \equiv -2 \pmod 5 ~ 3 mod 5 ~ x ≡ 3 (mod 5)|
x_1=3,x_2=-4 ~ x=3,-4 ~ x = 3 \text{ or } x = -4 ~ x=3, x=-4 ~ 3,-4 ~ x\in\{3,-4\} ~ \{-4,3\} ~ x=-4\text{ and }x=3 ~ x = 3 or -4|
(2,-1) ~ x=2,y=-1 ~ \begin{cases}x=2\\y=-1\end{cases} ~ (x,y)=(2,-1) ~ \left\{\begin{array}{l}x=2\\y=-1\end{array}\right. ~ x=2\text{ and }y=-1 ~ \begin{aligned}x&=2\\y&=-1\end{aligned} ~ (x, y) = (2, -1) ~ x = 2; y = -1|
101_2 ~ 5_{10} ~ 101_{2} ~ (101)_2 ~ 101|
2.5\text{ million} ~ 2500000 ~ 2.5 million ~ 2{,}500{,}000 ~ 2.5\times10^6|
3\text{ billion} ~ 3\times10^9 ~ 3000000000|7\text{ thousand} ~ 7000 ~ 7,000|
\sqrt{12} ~ 2\sqrt3 ~ 2\sqrt{3} ~ 2√3 ~ 2*sqrt(3) ~ 12^{1/2} ~ \sqrt 12|
\frac{\sqrt2}{2} ~ \frac1{\sqrt2} ~ 2^{-1/2} ~ sqrt(2)/2 ~ √2/2 ~ 0.5\sqrt2|\log_2 8 ~ 3|
\ln 2 ~ \log_e 2 ~ ln(2) ~ \ln(2)|e^{2} ~ \exp(2) ~ e^2 ~ e²|
\pi/4 ~ \frac{\pi}{4} ~ \frac14\pi ~ 0.25\pi ~ π/4 ~ pi/4|x^2-4 ~ (x-2)(x+2) ~ (x+2)(x-2) ~ -4+x^2|
[2,5) ~ 2\le x<5 ~ x\in[2,5) ~ x\ge2\text{ and }x<5 ~ 2 \leq x < 5 ~ \{x\mid 2\le x<5\} ~ 5>x\ge2|
(-\infty,3] ~ x\le3 ~ x \leq 3 ~ (-\infty, 3] ~ x≤3 ~ \{x: x\le 3\}|
(-\infty,0)\cup(2,\infty) ~ x<0\text{ or }x>2 ~ x<0, x>2 ~ (-∞,0)∪(2,∞) ~ x\in(-\infty,0)\cup(2,\infty) ~ x < 0 or x > 2 ~ x>2\lor x<0|
[0,2]\cup[1,5] ~ [0,5]|\mathbb{R} ~ (-\infty,\infty) ~ \text{all real numbers} ~ x\in\mathbb{R} ~ ℝ|
\emptyset ~ \varnothing ~ \{\} ~ ∅ ~ \text{no solution}|f(x)=2x ~ 2x ~ f(x) = 2x \text{ for all } x|
1+2i ~ 2i+1 ~ 1 + 2i|\frac{a}{b} ~ a/b ~ \dfrac ab|3:4 ~ 3/4 ~ \frac34 ~ 3 : 4 ~ 6:8 ~ 3\text{:}4|
\begin{pmatrix}1\\2\end{pmatrix} ~ \begin{bmatrix}1\\2\end{bmatrix} ~ (1,2) ~ \langle1,2\rangle ~ \begin{pmatrix} 1 \\ 2 \\ \end{pmatrix}|
\sin x ~ \sin(x) ~ sin(x) ~ \sin{x}|y=2x+1 ~ 2x+1 ~ y = 1+2x ~ 2x-y+1=0 ~ y-2x=1|
\lfloor x\rfloor ~ \left\lfloor x \right\rfloor ~ floor(x)|
1,2,3 ~ \{1,2,3\} ~ 3,2,1 ~ 1, 2, 3 ~ 1,2\text{ and }3 ~ 1, 2, and 3 ~ 1;2;3 ~ \text{1, 2, and 3}|
\text{Monday} ~ Monday ~ \text{monday} ~ \textbf{Monday}|\text{Yes} ~ Yes ~ yes ~ \text{YES}|
\text{even} ~ even ~ \text{Even}|
\pm3 ~ 3,-3 ~ x=\pm3 ~ \{3,-3\} ~ x = 3 \text{ or } x = -3 ~ +/-3 ~ ±3 ~ -3\text{ or }3|
\frac14 ~ ¼ ~ １/４ ~ 0.25|\frac23 ~ ⅔ ~ 2⁄3|\frac{3}{4} ~ ¾|1\frac12 ~ 1½|x^2 ~ x² ~ 𝑥² ~ 𝑥^2|x_1 ~ x₁|
10^{-3} ~ 10⁻³ ~ 0.001|2^{n} ~ 2ⁿ|\sqrt{5} ~ √5 ~ √(5) ~ √{5}|\sqrt[3]{7} ~ ∛7 ~ ∛(7)|\sqrt[4]{7} ~ ∜7|
3\cdot x ~ 3∙x ~ 3·x ~ 3×x ~ 3⋅x ~ 3∗x|-7 ~ −7 ~ ‒7 ~ –7 ~ ﹣7 ~ －7|42 ~ ４２ ~ 𝟒𝟐 ~ 42|
(3,4) ~ （3,4） ~ （３，４） ~ (3，4) ~ (3、4) ~ ⟨3,4⟩|1,2 ~ 1、2 ~ 1，2 ~ 1； 2|x\le3 ~ x≤3 ~ x≦3 ~ x⩽3|x\ne3 ~ x≠3|
\infty ~ ∞|\pi ~ π ~ 𝜋|\theta ~ θ ~ 𝜃|90^\circ ~ 90° ~ 90º ~ 90˚|50\% ~ 50％ ~ 50%|a+b ~ ａ＋ｂ|\{1,2\} ~ ｛1,2｝|
A\cup B ~ A∪B|\alpha+\beta ~ α+β|x\in\mathbb{Z} ~ x∈ℤ|7 ~ ٧ ~ ７|1234 ~ 1 234 ~ 1 234 ~ 1，234
"##;

#[test]
fn a_value_in_harmless_words_is_right() {
    for said in parts(SAID) {
        for completion in [
            format!("The answer is {said}"),
            format!("The final answer is {said}."),
            format!("Answer: {said}"),
            format!("<answer>{said}</answer>"),
            format!("So we add.\n#### {said}"),
        ] {
            assert!(is_right(&completion, "12"), "{completion}");
            assert!(!is_right(&completion, "13"), "{completion}");
        }
    }
}

#[test]
fn a_sentence_that_says_the_value_is_right() {
    for said in parts(SENTENCES) {
        for completion in
            [format!("<answer>{said}</answer>"), format!("<answer>{said}.</answer>"), format!("#### {said}")]
        {
            assert!(is_right(&completion, "12"), "{completion}");
            assert!(!is_right(&completion, "11"), "{completion}");
        }
    }
}

#[test]
fn whole_completions_with_the_value_are_right() {
    for (table, reference, other) in [(WHOLE, "12", "11"), (HEADED, "12", "11"), (CHOSEN, "C", "D")] {
        for completion in parts(table) {
            assert!(is_right(&completion, reference), "{completion}");
            assert!(!is_right(&completion, other), "{completion}");
        }
    }
}

#[test]
fn what_stands_around_a_number_in_a_box_is_passed_over() {
    for content in parts(BOXED) {
        assert!(is_right(&format!(r"So $\boxed{{{content}}}$."), "12"), "{content}");
        assert!(!is_right(&format!(r"So $\boxed{{{content}}}$."), "11"), "{content}");
    }
}

#[test]
fn spellings_of_one_value_are_equal() {
    for row in parts(EQUAL) {
        let mut spellings = row.split(" ~ ");
        let reference = spellings.next().unwrap();
        for answer in spellings {
            assert!(is_right(&format!(r"So $\boxed{{{answer}}}$."), reference), "{answer} is {reference}");
        }
    }
}
