//! Answers that say something else of a number or of a choice than that it is the answer. None of them is right.

use crate::math::tests::is_right;

/// The parts of a table, which stand between bars. `⏎` is the end of a line.
fn parts(table: &str) -> impl Iterator<Item = String> {
    table
        .split('|')
        .map(|part| part.trim_matches('\n').trim_end().replace('⏎', "\n"))
        .filter(|part| !part.is_empty())
}

/// Said of 12, in all frames.
const OF_TWELVE: &str = r##"
not 12|never 12|certainly not 12|in no case 12|anything but 12|everything except 12|12 at best|12 at worst|
12 at most|12 at least|12 at first|12 at a guess|12 at random|12 in theory|12 in principle|12 in error|
12 in jest|12 by mistake|12 by accident|12 by luck|12 for now|12 for starters|12 from memory|
12 with reservations|12 with a caveat|12 under protest|12 on paper|12 off the top of my head|12 give or take|
12 or so|12 or thereabouts|12 and change|12 and counting|12 so far|12 as a guess|12 as an upper bound|
12 as a lower bound|12 as a first guess|12 minimum|12 max|12 tops|12 maximum|12 plus|12 ish|12-ish|12ish|
12 something|12 odd|12 point five|12 point 5|12 tens|12 hundreds|12 ones|12 fold|12-fold|12 choose 2|
12 choose two|12 squared|12 cubed|12 inverse|12 to the third|12 to the power 3|12 raised to 2|12 halved|
12 doubled|12 times two|12 times over|12 times itself|12 twice|12 incorrectly|12 wrongly|12 mistakenly|
12 allegedly|12 apparently|12 supposedly|12 arguably|12 hopefully|12 seemingly|12 sort of|12 kind of|
12 somewhat|12 I guess|12 I suppose|12 I think|12 I hope|12 you say|12 they say|12 says Bob|
12 according to Bob|12 according to my rival|12 if I recall|12 if lucky|12 assuming no error|
12 contradicts the condition|12 violates the constraint|12 misses the mark|12 overshoots|12 overshoots it|
12 fails the test|12 falls short|12 seems wrong|12 looks wrong|12 sounds wrong|12 must be wrong|
12 can be ruled out|12 is ruled out|12 is out|12 is too big|12 is too small|12 is excluded|12 is impossible|
12 is close|12 is near|12 is the wrong answer|12 is a trap|12 is a distractor|12 is tempting|
12 is only a bound|12 is an upper bound|12 was my first guess|12 would be nice|12 used to be it|12 won't do|
12 does not work|12 doesn't fit|12 lies outside|12 gets rejected|12 minus one|12 less one|12 less 1|
12 plus one|12 add 1|12 and one more|12 and a bit|12 and a quarter|12 with one left over|12 remainder 1|12 r 1|
12 R1|12 remainder one|12 rounded up|12 rounded down|12 short|12 shy|12 away from x|12 from the right|12 below|
12 above|12 under par|12 over par|12 beyond|12 out of 13|12 of 13|12 in 13|12 to 1|12 to 13|12 through 13|
12 - 13|12â13|12â13|12 to one|12:13|12/13|12 versus 13|12 vs 13|12 vs. 13|12 against 13|12 with 13|
12 then 13|12 followed by 13|12, then 13|12; 13|12, or 13|12, or maybe 13|12, though 13 is possible|
12, but 13 is possible too|12, but also 13|12, alternatively 13|12 alternatively 13|12 (or 13)|
12 (alternatively 13)|12 (13 also works)|12 (wrong)|12 (incorrect)|12 (not really)|12 (maybe)|12 (rejected)|
12 (no)|12 (false)|12 (at best)|12 (just kidding)|12 [sic]|12, not!|12, no|12, no wait|12, no: 13|12, wait, 13|
12, hmm, 13|12, scratch that, 13|12, or rather 13|12, I mean 13|12, correction: 13|12, which is wrong|
12, which is not right|12, which I doubt|12, which cannot be|12, which is incorrect|12, which fails|
12, which contradicts the premise|12, but that is wrong|12, but that fails|12, but I doubt it|
12, but not quite|12, however that is wrong|12, maybe|12, perhaps|12, probably|12, I guess|12, if anything|
12, at best|12, more or less|12, sort of|12, kind of|12, give or take|12, give or take one|12, allegedly|
12, supposedly|12, unlikely|12?|12??|12 ?|12 right?|12, right?|maybe 12|perhaps 12|possibly 12|probably 12|
likely 12|presumably 12|supposedly 12|allegedly 12|arguably 12|apparently 12|hopefully 12|seemingly 12|
potentially 12|conceivably 12|maybe even 12|something like 12|somewhere near 12|somewhere around 12|
in the vicinity of 12|in the ballpark of 12|on the order of 12|of the order of 12|around 12 or 13|
about 12 to 13|a bit over 12|a bit under 12|slightly above 12|slightly less than 12|a little more than 12|
just over 12|just below 12|well over 12|well below 12|far from 12|nowhere near 12|not far from 12|not quite 12|
not exactly 12|not equal to 12|unequal to 12|different from 12|other than 12|distinct from 12|
greater or equal to 12|bigger than 12|smaller than 12|no less than 12|no greater than 12|no fewer than 12|
not above 12|not below 12|a maximum of 12|a minimum of 12|bounded by 12|bounded above by 12|limited to 12|
capped at 12|divisible by 12|a factor of 12|a divisor of 12|a multiple of 12|coprime to 12|congruent to 12|
relatively prime to 12|proportional to 12|inversely proportional to 12|the square of 12|the square root of 12|
the cube of 12|the double of 12|the triple of 12|the half of 12|one half of 12|two thirds of 12|
a quarter of 12|10% of 12|10 percent of 12|the inverse of 12|the reciprocal of 12|the opposite of 12|
the negative of 12|the negation of 12|the absolute value of 12|the logarithm of 12|log base 2 of 12|log 12|
ln 12|sin 12|sqrt 12|root 12|the sine of 12|12 factorial|12!|the factorial of 12|the sum of 12 and x|
the sum of 12 and 1|the difference of 12 and 1|the product of 12 and 2|the remainder of 12|the digits of 12|
the last digit of 12|the number after 12|the successor of 12|the predecessor of 12|the integer before 12|
one more than 12|one less than 12|two more than 12|ten times 12|3 times 12|three times 12|12 times 3|
12 multiplied by 3|12 divided by 3|12 over 3|12 per 3|12 halves|12 thirds|12 fifths|12 hundredths|
12 thousandths|12 percent of 50|12% of 50|12 billion|12 thousand|12k|12K|12 K|12e3|12 dozen|12 score|12 gross|
12 lakh|12 crore|12 myriad|minus 12|negative 12|-12|plus or minus 12|Â±12|+/- 12|between 12 and 13|
between 11 and 12|from 12 to 13|from 11 to 12|in the range 12-13|in [11, 12]|in (11, 12)|the interval (11, 12)|
either 12 or 13|either 12 or else 13|neither 12 nor 13|both 12 and 13|one of 12 and 13|one of 12, 13|12 and 13|
12 & 13|12 and/or 13|12/13/14|12 or 13 or 14|12, 13, or 14|12 or more|12 or fewer|12 or less|12 or higher|
12 or another number|12 or something|12 or similar|12 or else|12 or nothing|12 or x|12 or none|12 unless x = 0|
12 if x > 0|12 if and only if n = 1|12 when x is even|12 whenever n is odd|12 provided n = 2|12 only if n = 2|
12 except when n = 2|12 except for n = 2|12 in case n = 2|12 for n = 2|12 for x > 0|12 until n = 2|
12 where n = 2|12 given n = 2|12 assuming n = 2|12x|12 x|12y|12ab|12 x + 1|12 + 1|12 + x|12 - x|12 * 3|12 Ã 3|
12^2|12**2|12 mod 5|12 modulo 5|12 (mod 5) + 1|12.5|12.0.1|12,5|12 000|12,000|12 13|12 1/2|12Â½|12 and 1/2|
12 and a half|12 and one half|012-13|12-12-2024|12/12/2024|12.12.2024|12 December|December 12|12 Dec 2024|
Dec 12, 2024|the 12th|the 12th prime|the 12th term|question 12|problem 12|equation 12|equation (12)|step 12|
page 12|case 12|part 12|line 12|12 positions off|12 units off|12 too many|12 too few|12 more|12 fewer|12 extra|
12 additional|12 bits short|12 digits long|12 characters long|unknown|unknown, but close to 12|unknown (12?)|
hard to say, 12 maybe|undefined, not 12|undefined at 12|infinite, not 12|nonexistent, 12 was an error|
impossible to be 12|wrong if 12|false: 12|incorrect: 12|invalid: 12|rejected: 12|not: 12|guess: 12|
my guess is 12|my best guess is 12|a guess of 12|an estimate of 12 or 13|0 to 12|0-12|0..12|1, 2, ..., 12|
1 through 12|up to and including 12|up to 12|until 12|less than or equal to 12|<12|<= 12|> 12|â  12|!= 12|
â¤12|\le 12|\ne 12|\neq 12|<>12|~12 or 13|x or 12|x = 12 or x = 13|x = 12, x = 13|x = 12 and x = 13|
x = 12 or 13|x â  12|x > 12|x â¥ 12|x != 12|x = 12y|2x = 12|x^2 = 12|x/2 = 12|x + 1 = 12|x - 1 = 12|12 = 2x|
I firmly reject 12 apples|I reject 12|We reject 12|We rule out 12|We exclude 12|We discard 12|Nobody found 12|
No one has 12|It cannot be 12|It could be 12|It might be 12|It may be 12|It should not be 12|
It would be 12 if n = 2|It was 12 before|It used to be 12|It will never be 12|It isn't 12|It ain't 12|
It is hardly 12|It is barely 12|It is scarcely 12|It is no longer 12|It seems 12 is wrong|It rounds to 12|
It starts with 12|It contains 12|It includes 12|It exceeds 12|It divides 12|It is divisible by 12|
It approaches 12|It tends to 12|It depends on 12|It is related to 12|Tom did not plant 12 trees|
Tom never planted 12 trees|Tom failed to plant 12 trees|Tom wanted 12 trees|Tom hoped for 12 trees|
Tom refused 12 trees|Tom denied 12 trees|Tom planned 12 trees|Tom forgot 12 trees|Tom missed 12 trees|
Tom lost count after 12 trees|Tom avoided 12 trees|The square of it is 12|The square of x is 12|
Its square is 12|Its double is 12|Twice it is 12|Half of it is 12|The opposite is 12|The wrong answer is 12|
The wrong value is 12|A wrong answer is 12|A common error is 12|The trap is 12|The distractor is 12|
The previous answer was 12|The old answer was 12|The naive result is 12|Bob's answer is 12|Your answer is 12|
His answer is 12|Someone else got 12|Others say 12|Some say 12|One might say 12|If anything, 12|If forced, 12|
To be safe, 12 or 13|Wrong: 12|Not 12|Nope, 12 fails
"##;

/// Said of 7, in all frames.
const OF_SEVEN: &str = r##"
7 under no circumstances|7 is not the case|7 is off the table|7 is off by one|7, roughly half of it|
7 but only barely|7 but not for all n|7 pending review|7 modulo a sign|7 up to sign|7 up to isomorphism|
7 up to a constant|7 give or take a few|7 as far as I can tell|7 if my math is right|7 if memory serves|
7 with some uncertainty|7 with probability 1/2|7 with high probability|7 most of the time|7 half the time|
7 on odd days|7 on a bad day|7 in most cases|7 in some cases|7 in the worst case|7 in the best case|
7 in the limit|7 in base 8|7 in hexadecimal|7 to first order|7 to leading order|7 at infinity|7 at n = 3|
7 at the latest|7 at the very least|7 at the very most|7 at the earliest|7 at minimum|7 at maximum|
7 by one estimate|7 by some accounts|7 by popular vote|7 squared minus 1|7 to some power|7 raised to n|
7 the hard way|7 or its negative|7 or -7|7 or thereabout|7 or 7.5|7 or even 8|7 and 8 both work|
7 and its multiples|7 and above|7 and below|7 and all larger integers|7 and so on|7, etc.|7 etc|7, 14, 21|
7, 14, ...|7, and 14|7, perhaps 8|7, though maybe 8|7, unless n = 2|7, if n is even|7, assuming n = 2|
7, depending on n|7 depending on the sign|7, with 8 also possible|7, without proof|7, contrary to fact|
7, they claim|7, said no one ever|7, which nobody believes|7, or so they say|7, or so I am told|7, or not|
7, not quite|7, not exactly|7, not really|7, almost|7, nearly|7, ish|7, false|7, untrue|7, a mistake|
7, a wrong answer|7, an error|7: wrong|7: false|7: no|7 - no|7 - wrong|7 - 1|7 -- not|7 / not 7|7 // wrong|7 ✗|
7 ❌|❌ 7|~~7~~|7 (✗)|7 (x)|7 (invalid)|7 (to be rejected)|7 (extraneous)|7 (extraneous root)|7 (not allowed)|
7 (discard)|7 (upper bound)|7 (lower bound)|7 (an overestimate)|7 (estimate)|7 (guess)|7 (unverified)|
7 (tentative)|7 (see 8)|7 (8?)|7 (8)|7 (or perhaps more)|7 (and 8)|7 (mod 3)|roughly 7 or 8|about 7 to 9|
circa 7 to 9|in between 7 and 9|strictly between 6 and 8|strictly less than 7|strictly more than 7|
strictly below 7|a number below 7|a number greater than 7|any integer up to 7|all integers up to 7|
every number except 7|all real numbers except 7|all but 7|everything less than 7|nothing but trouble, 7|
none of 7, 8, 9|none other than 8, not 7|the smallest prime above 7|the largest integer below 7|
the next prime after 7|the number before 7|half of 7|a tenth of 7|seven percent of 7|7 percent off|7% off|
7 times smaller|7 times larger|7 times as many|7 times more|7-fold|sevenfold 7|7 squared|the 7th root of x|
the 7th power|7 choose k|7 pick 2|7 factorial|7 double factorial|7 prime|7'|7''x|7 inverse mod 9|7 over n|
7 upon 9|7 by 9|7 x 9|7 cross 9|7 dot 9|7 and 9/10|7 plus or minus 1|7 Â± 1|7 +/- 1|7 Â± 0.5|7+|7-|7+-|7+1|7-1|
7Â·2|7k+1|7 + O(n)|O(7)|f(7)|g(7) + 1|P(7)|7!|7!!|7?|7??|7.?|7:30|7 o'clock|7/8|7/04|7-04|July 7|7 July|
7th of July|May 7, 2020|2020-07-07|Monday 7|room 7|chapter 7|answer 7 of 9|7 of 9|7 from 9|7 out of 9|
seven, not 7|eight, not 7|8 (not 7)|8 not 7|8 instead of 7|8 as opposed to 7|8, unlike 7|8, since 7 fails|
8 because 7 is too small|8 > 7|8 = 7 + 1|8, i.e. 7 + 1|8, one more than 7|8, or 7 + 1|7 + 1 = 8|7 â  8|7 = 8|
7 < 8|7 â 8|7 -> 8|7, then 8|first 7, then 8|7 at first, later 8|7 before, 8 after|7 initially, 8 finally|
was 7, is 8|7 now 8|7 no 8|7 nope|7 nah|7 lol|7 jk|7 haha no|7 haha|7 my foot|7 my guess|7 your guess|
7 who knows|7 whatever|7 dunno|7 idk|7 tbd|7 tba|7 todo|7 draft|7 placeholder|7 wip|7 unchecked|7 unconfirmed|
7 unproven|7 disputed|7 doubtful|7 debatable|7 questionable|7 dubious|7 tentative|7 provisional|7 conditional|
7 hypothetical|7 imaginary|7 fictitious|7 fake|7 wrong|7 bad|7 bogus|7 nonsense|7 absurd|7 impossible|
7 unlikely|7 untrue|7 void|7 null|7 undefined|7 refused|7 retracted|7 withdrawn|7 corrected to 8|
7 replaced by 8|7 becomes 8|7 turned 8|7 equals 8|7 exceeds it|7 exceeds the bound|7 undershoots|
7 contradicts itself|7 disagrees with it|7 conflicts with it|7 breaks it|7 lies|7 tricks you|7 fools everyone|
7 traps everyone|I doubt 7|I dislike 7|I dispute 7|I refuse 7 apples|I disbelieve 7 apples|We dismiss 7 cases|
We exclude 7 apples|We should not say 7|Do not answer 7|Don't say 7|Never say 7|Avoid 7|Beware of 7|Skip 7|
Forget 7|Ignore 7|Delete 7|Strike 7|Cross out 7|Reject 7|Refute 7|Disprove 7|Replace 7 by 8|Change 7 to 8|
Compare with 7|Test 7|Try 7|Plug in 7|Suppose 7|Assume 7|Let x = 7 and see|Imagine 7|Consider 7|Except 7|But 7|
Unlike 7|Versus 7|Contrary to 7|Instead of 7|Rather than 7|Other than 7|Beyond 7|Past 7|Over 7|Under 7|Below 7|
Above 7|Near 7|Close to 7|Around 7 to 9|Outside 7|Without 7|Minus 7|Plus 7|Times 7|Tom denies 7 trees|
Tom pretended to plant 7 trees|Tom nearly planted 7 trees|Tom might plant 7 trees|Tom should plant 7 trees|
Tom would plant 7 trees|Tom almost bought 7 trees|Tom never bought 7 trees|Nobody bought 7 trees|
No child has 7 toys|None has 7|It has 7 flaws and is 8|There is no 7|There are not 7|There aren't 7 ways|
There may be 7 ways|There could be 7|There were supposedly 7|It takes more than 7 hours|
It takes less than 7 hours|It costs over $7|It costs nearly $7|The sum exceeds 7|The sum is above 7|
The sum is under 7|The sum is nowhere near 7|The sum isn't 7|The product of the answer and 2 is 7|
The negative of the sum is 7?|The wrong total is 7|The opposite of the result is 7|
The reciprocal of the result is 7|The square of the result is 7|Twice the result is 7|Half the total is 7|
Double the total is 7|The number squared is 7|x squared is 7|x doubled is 7|2x is 7|3x equals 7|x + 1 is 7|
x - 1 equals 7|minus x is 7|-x = 7|1/x = 7|x/2 equals 7|sqrt(x) = 7|x|> 7|\frac{x}{2} = 7|x^2 equals 7|
not x = 7|x is not 7|x isn't 7|x cannot be 7|x might be 7|x is below 7|x is at least 7|x is 7 or 8|
x is neither 7 nor 8
"##;

/// Whole completions that name 12 and do not answer with it.
const WHOLE: &str = r##"
The square of the answer is 12.|The cube of the answer is 12.|The reciprocal of the answer is 12.|
The double of the answer is 12.|The sum of the digits of the answer is 12.|
The number of digits of the answer is 12.|The last digit of the answer is 12.|
The opposite of the answer is 12.|The sign of the answer is not 12.|Ten times the answer is 12.|
Three times the answer equals 12.|One more than the answer is 12.|One less than the answer is 12.|
The answer's square is 12.|The answer's double is 12.|The answer plus one is 12.|The answer times two is 12.|
The answer doubled is 12.|The answer halved is 12.|The answer, doubled, is 12.|
The answer, when squared, is 12.|The answer includes 12.|The answer uses 12.|The answer rounds to 12.|
The answer contains 12.|The answer involves 12.|The answer exceeds 12.|The answer precedes 12.|
The answer follows 12.|The answer divides 12.|The answer approaches 12.|The answer depends on 12.|
The answer excludes 12.|The answer avoids 12.|The answer beats 12.|The answer nears 12.|
The answer surpasses 12.|The answer lacks 12.|The answer mentions 12.|The answer relates to 12.|
The answer refers to 12.|The answer falls below 12.|The answer stays under 12.|The answer must exceed 12.|
The answer must divide 12.|The answer cannot exceed 12.|The answer should exceed 12.|
The answer could well be 12.|The answer would have been 12.|The answer would be 12 if n were 2.|
The answer may or may not be 12.|The answer used to be 12.|The answer was 12 until I checked.|
The answer was thought to be 12.|The answer is said to be 12.|The answer is believed to be 12.|
The answer is rumored to be 12.|The answer is assumed to be 12.|The answer is bounded by 12.|
The answer is far from 12.|The answer is anything but 12.|The answer is nothing like 12.|
The answer is unlikely to be 12.|The answer is hardly 12.|The answer is surely not 12.|
The answer is in no way 12.|The answer is by no means 12.|The answer isn't 12.|The answer ain't 12.|
The answer is no longer 12.|The answer is other than 12.|The answer is not, in fact, 12.|
The answer is not simply 12.|The answer is not necessarily 12.|The answer won't be 12.|
The answer can't possibly be 12.|The answer never was 12.|I reject the answer 12.|
I reject the claim that the answer is 12.|I deny that the answer is 12.|I disagree that the answer is 12.|
Nobody believes the answer is 12.|No one thinks the answer is 12.|Bob claims the answer is 12.|
Bob says the answer is 12.|Some say the answer is 12.|One might think the answer is 12.|
You might think that the answer is 12.|A naive solver says the answer is 12.|Maybe the answer is 12.|
Perhaps the answer is 12.|Possibly the answer is 12.|I guess the answer is 12?|
It is unlikely that the answer is 12.|It is doubtful that the answer is 12.|
It would be wrong to say the answer is 12.|It is a mistake to think the answer is 12.|
It is incorrect that the answer is 12.|If the answer is 12, then x = 3.|
If the answer were 12, we would be done.|Unless the answer is 12.|Whether the answer is 12 is unclear.|
Is 12 the answer?|Is the answer 12?|Can the answer be 12?|Why is the answer not 12?|12 is not the answer.|
12 cannot be the answer.|12 can't be the answer.|12 is hardly the answer.|12 is never the answer.|
12 might be the answer.|12 may be the answer.|12 could be the answer.|12 would be the answer if n = 2.|
12 is a wrong answer.|12 is the wrong answer.|12 is not the final answer.|12 is half the answer.|
12 is twice the answer.|12 is one less than the answer.|12 is part of the answer.|12 is close to the answer.|
12 is near the answer.|12 is just an estimate of the answer.|12 is an upper bound for the answer.|
12 is the answer to another question.|12 is what a wrong answer looks like.|Any answer but 12.|
All answers except 12.|Every answer but 12 is right.|Not the answer: 12.|Wrong answer: 12.|
Incorrect answer: 12.|Bad answer: 12|Answer (wrong): 12|Answer (rejected): 12|Possible answer: 12|
Possible answers: 12, 13|Candidate answers: 12|Previous answer: 12|The old answer: 12.|
The first answer was 12.|Bob's answer: 12|Your answer is 12. Mine is 13.|My first answer was 12.|
The answers are 12 and 13.|The answers are 12, 13.|The answer is 12. No, 13.|The answer is 12. Sorry, 13.|
The answer is 12. Actually, it's 13.|The answer is 12. Wait, no. It is 13.|The answer is 12. Oops, 13.|
The answer is 12. Or 13.|The answer is 12. Or maybe 13.|The answer is 12. Alternatively, 13.|
The answer is 12. On second thought, 13.|The answer is 12. I take that back: 13.|
The answer is 12. Scratch that: 13.|The answer is 12... or 13.|The answer is 12! No, 13!|Answer: 12⏎Answer: 13|
The answer is 12.⏎The answer is 13.|The answer is 12 but the real answer is 13.|
The answer is 12, and also the answer is 13.|Either the answer is 12 or the answer is 13.|
The answer is 13, not 12.|The answer is 13 and not 12.|The answer is 13 instead of 12.|
The answer is 13 rather than 12.|The answer is 13 (not 12).|The answer is 13, and never 12.|
The answer is 13, although 12 is close.|The answer is 13 because 12 fails.|
The answer is 13, since 12 is too small.|The answer is 13, whereas 12 is wrong.|
The answer is 13, as opposed to 12.|The answer is 13, i.e. 12 + 1.|The answer is 13 = 12 + 1.|
The answer is 13 > 12.|The answer is 13 (12 + 1).|Not 12.|So it is not the answer, 12.|
The answer lies between 11 and 12.|The answer ranges from 11 to 12.|The answer is unclear: 12 or 13.|
The answer is unclear, 12 perhaps.|No answer is 12.|None of the answers is 12.|Neither answer is 12.|
Not every answer is 12.|Hardly any answer is 12.|Half of the answer is 12.|A third of the answer is 12.|
Part of the answer is 12.|The first half of the answer is 12.|The first digit of the answer is 12.|
The first two digits of the answer are 12.|The denominator of the answer is 12.|
The numerator of the answer is 12.|The exponent in the answer is 12.|The coefficient in the answer is 12.|
The units of the answer are 12.|The length of the answer is 12.|The range of the answer is 12.|
The error in the answer is 12.|The answer differs by 12.|The answer is off by 12.|The answer was off by 12.|
The answer ends in 12.|The answer is the square of 12.|The answer is 12 squared.|The answer is 12 more.|
The answer is 12 less.|The answer is out of 12.|The answer is due on 12.|Multiply the answer by 12.|
Add the answer to 12.|Divide the answer by 12.|Check the answer against 12.|Compare the answer with 12.
"##;

/// Said of choice B, in all frames.
const OF_B: &str = r##"
(B) or (C)|B or C|B, C|B and C|B/C|B & C|BC|B C|(B)(C)|(B), (C)|B. or C.|B; C|B, or C|B, maybe C|B then C|
B but also C|B, but C works too|not B|Not (B)|never B|B is wrong|B is not right|B is incorrect|
(B) is incorrect|(B) is false|B incorrectly|(B) incorrectly|B mistakenly|(B) wrongly|(B) sort of|B sort of|
(B) kind of|(B) somewhat|(B) partly|(B) mostly|(B) almost|(B) probably|(B) possibly|(B) maybe|(B), maybe|
(B), perhaps|(B), I guess|(B) I guess|(B) I think|(B) hopefully|(B) apparently|(B) allegedly|(B) supposedly|
(B) arguably|maybe B|perhaps B|possibly B|probably B|likely B|either B or C|neither B nor C|both B and C|
one of B and C|B through D|B to D|B-D|A-D|all but B|anything but B|everything except B|all except (B)|
none, not even B|C, not B|C and not B|C rather than B|C instead of B|C (not B)|C over B|C because B fails|
C since B is wrong|C as B is wrong|(C) because (B) fails|B?|(B)?|B??|B if n is even|(B) unless n = 0|
(B) when n = 0|(B) only if n = 0|(B) at best|(B) at first|(B) at most|(B) for now|(B) in theory|(B) by mistake|
(B) by elimination of C... or C|(B) cannot be|(B) can be ruled out|(B) fails|(B) contradicts the premise|
(B) violates the condition|(B) does not work|(B) doesn't fit|(B) seems wrong|(B) looks off|(B) is a trap|
(B) is tempting|(B) is close|(B) is out|(B) was eliminated|(B) has been eliminated|(B) gets eliminated|
(B) eliminated|(B) rejected|(B) excluded|(B) ruled out|(B) discarded|(B) crossed out|(B) nope|(B) not|
(B) wrong|(B) false|(B) incorrect|(B) invalid|(B) bad|(B) wait, C|(B) no wait (C)|(B) no, (C)|(B) oh, C|
(B) hmm C|(B) versus (C)|(B) vs C|(B) against C|(B) + (C)|(B) = (C)|(B) -> (C)|(B) → (C)|B -> C|B → C|B ⇒ C|
B < C|B > C|B = C|B != C|B+C|B-C|B*C|B^2|B'|B1|B_1|!B|¬B|\\neg B|B or not B|B minus C|B plus C|
the opposite of B|the complement of B|the one after B|the one before B|anything after B|next to B|
option after B|similar to B|close to B|like B|not exactly B|not quite B|hardly B|far from B|different from B|
other than B|Option C, not B|Option B is wrong|Option B or C|Options B and C|options B, C|Choice B fails|
Choice B or D|None|none of B and C|A, B, C|A B C D|ABCD|(A)(B)(C)|all of A, B, C|unknown|unclear, B maybe|
B and a half|Bob|Because|Both|Bees
"##;

/// Whole completions that name B and do not choose it.
const WHOLE_OF_B: &str = r##"
The correct option is not B.|The correct choice isn't B.|Option B is wrong.|B is not the right option.|
The incorrect option is B.|The wrong choice is B.|The worst option is B.|The second best option is B.|
The only wrong option is B.|We can eliminate option B.|So we reject B.|It can't be B.|Not B.|
I would avoid option B.|The answer excludes B.|Every option but B.|All options except B are right.|
The right option is B or C.|The correct options are B and C.|Which option is B?|Is the answer B?|Is it B?|
B is tempting, but wrong.|B looks right, but it is not.|B and C are both right.|A or B.|Neither B nor C.
"##;

/// Places where a sentence may tell the answer.
fn frames(said: &str) -> Vec<String> {
    let mut frames = vec![
        format!("The answer is {said}."),
        format!("Answer: {said}"),
        format!("<answer>{said}</answer>"),
        format!("We add.\n#### {said}"),
    ];
    if !said.contains(['\\', '$', '_', '^', '~', '#', '{', '}']) {
        frames.push(format!(r"So \boxed{{\text{{{said}}}}}."));
    }
    frames
}

#[test]
fn what_is_said_of_a_number_is_not_the_number() {
    for (table, reference) in [(OF_TWELVE, "12"), (OF_SEVEN, "7"), (OF_B, "B")] {
        for said in parts(table) {
            for completion in frames(&said) {
                assert!(!is_right(&completion, reference), "{completion}");
            }
        }
    }
}

#[test]
fn a_choice_that_is_spoken_of_is_not_chosen() {
    for said in parts(OF_B) {
        assert!(!is_right(&format!("The correct option is {said}."), "B"), "{said}");
    }
}

#[test]
fn completions_that_name_a_value_and_do_not_answer_with_it_are_wrong() {
    for (table, reference) in [(WHOLE, "12"), (WHOLE_OF_B, "B")] {
        for completion in parts(table) {
            assert!(!is_right(&completion, reference), "{completion}");
        }
    }
}
