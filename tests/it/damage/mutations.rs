//! Fixed rules that make damaged files of good ones.

use serde_json::Value;
use trajectory::random::Random;

/// Numbers that lengths, counts and sizes are set to.
const SIZES: [u64; 12] = [
    0,
    1,
    2,
    255,
    1 << 16,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    i64::MAX as u64,
    u64::MAX - 7,
    u64::MAX,
];

/// What values of JSON are set to, as bytes: some are no JSON, and some no text.
const VALUES: [&[u8]; 40] = [
    b"null",
    b"true",
    b"false",
    b"\"\"",
    b"0",
    b"-0",
    b"-1",
    b"1",
    b"3",
    b"0.5",
    b"1000000000",
    b"4294967295",
    b"4294967296",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"18446744073709551615",
    b"123456789012345678901234567890",
    b"1e5",
    b"1e308",
    b"1e999",
    b"-1e999",
    b"1e-400",
    b"NaN",
    b"Infinity",
    b"00",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    b"\"\xff\xfe\"",
    b"\"../../outside\"",
    b"\"/dev/zero\"",
    b"\"((((\"",
    b"\"(a{1000}){1000}\"",
    b"\"(a+)+$\"",
    b"[]",
    b"{}",
    b"[null]",
    b"[-1, 0, 1e9]",
    b"{\"type\": \"unknown\"}",
    b"{\"a\": {\"a\": {}}}",
    b"",
];

/// Changes bytes without a look at what they are: a cut, flipped bits, runs of one byte, numbers, pieces that are gone or
/// doubled.
pub(super) fn of_bytes(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    if bytes.is_empty() {
        return vec![0xff];
    }
    let at = random.below(bytes.len());
    let end = (at + 1 + random.below(32)).min(bytes.len());
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => (0..1 + random.below(4)).for_each(|_| {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }),
        2 => bytes[at..end].fill([0x00, 0x7f, 0x80, 0xff][random.below(4)]),
        3 => put(&mut bytes, at, &SIZES[random.below(SIZES.len())].to_le_bytes()),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {
            bytes.splice(at..at, [0xc3, 0x28, 0xf0, 0x9f]);
        }
    }
    bytes
}

/// Writes over what is at a place, as far as the bytes go.
fn put(bytes: &mut [u8], at: usize, written: &[u8]) {
    let end = (at + written.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&written[..end - at]);
}

/// Sets, removes or doubles one value of a JSON text, or changes it as bytes.
pub(super) fn of_json(good: &[u8], random: &mut Random) -> Vec<u8> {
    let Ok(mut whole) = serde_json::from_slice::<Value>(good) else { return of_bytes(good, random) };
    let mut places = Vec::new();
    collect_places(&whole, String::new(), &mut places);
    let place = places[random.below(places.len())].clone();
    let written: Vec<u8> = match random.below(12) {
        0 => return of_bytes(good, random),
        1 => "[".repeat(100_000).into_bytes(),
        2 => [&b"{\"a\":"[..]; 100_000].concat(),
        3 => [&b"["[..], &b"0,".repeat(2000), b"0]"].concat(),
        4 => [&b"\""[..], &[b'x'; 20_000], b"\""].concat(),
        _ => VALUES[random.below(VALUES.len())].to_vec(),
    };
    const MARK: &str = "@ here @";
    let removes = random.below(6) == 0;
    if let Some((above, key)) = place.rsplit_once('/')
        && let Some(Value::Object(fields)) = whole.pointer_mut(above)
        && random.below(3) == 0
    {
        let key = key.replace("~1", "/").replace("~0", "~");
        if removes {
            fields.remove(&key);
            return whole.to_string().into_bytes();
        }
        // A key that stands twice.
        fields.insert(MARK.to_owned(), Value::Null);
        let doubled = [Value::from(key).to_string().as_bytes(), b":", &written].concat();
        return replaced(&whole.to_string(), &format!("\"{MARK}\":null"), &doubled);
    }
    if let Some(value) = whole.pointer_mut(&place) {
        *value = Value::from(MARK);
    }
    replaced(&whole.to_string(), &format!("\"{MARK}\""), &written)
}

fn collect_places(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, inner)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            collect_places(inner, format!("{at}/{key}"), places);
        }),
        // Lists of tokens are long: a few of their places stand for all.
        Value::Array(items) => items.iter().take(8).enumerate().for_each(|(number, inner)| {
            collect_places(inner, format!("{at}/{number}"), places);
        }),
        _ => {}
    }
    places.push(at);
}

fn replaced(whole: &str, mark: &str, written: &[u8]) -> Vec<u8> {
    let at = whole.find(mark).expect("the mark was put there");
    [&whole.as_bytes()[..at], written, &whole.as_bytes()[at + mark.len()..]].concat()
}

/// Changes the header or the numbers of a safetensors file.
pub(super) fn of_safetensors(good: &[u8], random: &mut Random) -> Vec<u8> {
    let length = u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
    let (header, numbers) = (&good[8..8 + length], &good[8 + length..]);
    let with =
        |header: &[u8], numbers: &[u8]| [&(header.len() as u64).to_le_bytes(), header, numbers].concat();
    match random.below(8) {
        0 => of_bytes(good, random),
        1 => [&SIZES[random.below(SIZES.len())].to_le_bytes(), header, numbers].concat(),
        2 => {
            let mut numbers = numbers.to_vec();
            let at = random.below(numbers.len()) & !3;
            let not = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.below(3)];
            put(&mut numbers, at, &not.to_le_bytes());
            with(header, &numbers)
        }
        // The length is the old one.
        3 => [&good[..8], &of_json(header, random), numbers].concat(),
        4 => with(header, &[numbers, &[0; 16]].concat()),
        5 => with(header, &of_bytes(numbers, random)),
        _ => with(&of_json(header, random), numbers),
    }
}

/// Changes a count, a length, a type or a value of a GGUF file, or its bytes.
pub(super) fn of_gguf(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let names = names_of_gguf(good);
    let name = &names[random.below(names.len())];
    let size = SIZES[random.below(SIZES.len())];
    // Behind a name stand a type and a value; of a list its type and count; of a tensor dimensions, type and place.
    let behind = name.start + 8 + name.bytes + 4 * random.below(8);
    match random.below(9) {
        0 => return of_bytes(good, random),
        1 => bytes.truncate(name.start + random.below(40)),
        2 => put(&mut bytes, [4, 8, 16][random.below(3)], &size.to_le_bytes()),
        3 => put(&mut bytes, name.start, &size.to_le_bytes()),
        4 => put(&mut bytes, behind, &size.to_le_bytes()),
        5 => put(&mut bytes, behind, &(random.below(16) as u32).to_le_bytes()),
        6 => put(&mut bytes, behind, &[f32::NAN, f32::INFINITY, -1.0, 0.0][random.below(4)].to_le_bytes()),
        7 => put(&mut bytes, name.start + 8, &[0xff, 0x80]),
        // Two names that are one.
        _ => {
            let other = &names[random.below(names.len())];
            let first = &good[other.start + 8..][..other.bytes];
            put(&mut bytes, name.start + 8, &first[..first.len().min(name.bytes)]);
        }
    }
    bytes
}

/// A name of a key or tensor in a GGUF file, from its length on.
struct Name {
    start: usize,
    bytes: usize,
}

/// Finds names by their form: a length, and so many letters with a point among them.
fn names_of_gguf(bytes: &[u8]) -> Vec<Name> {
    let is_letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(byte);
    let mut names = Vec::new();
    let mut at = 24;
    while at + 8 < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let name = (5..=64).contains(&length).then(|| bytes.get(at + 8..at + 8 + length)).flatten();
        match name.filter(|name| name.iter().all(is_letter) && name.contains(&b'.')) {
            Some(_) => {
                names.push(Name { start: at, bytes: length });
                at += 8 + length;
            }
            None => at += 1,
        }
    }
    names
}

/// Changes one row, or the bytes of all.
pub(super) fn of_lines(good: &[u8], random: &mut Random) -> Vec<u8> {
    if random.below(5) == 0 {
        return of_bytes(good, random);
    }
    let mut lines: Vec<Vec<u8>> = good.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = random.below(lines.len() - 1);
    lines[at] = of_json(&lines[at], random);
    lines.join(&b'\n')
}

/// What values of a TOML file are set to beside those of JSON.
const TOML_VALUES: [&[u8]; 12] = [
    b"inf",
    b"-inf",
    b"nan",
    b"1979-05-27T07:32:00Z",
    b"0x7fffffffffffffff",
    b"9223372036854775808",
    b"'''",
    b"\"\"\"",
    b"{ a = 1, a = 2 }",
    b"{ a.a.a.a.a.a = 1 }",
    b"= =",
    b"\"{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}\"",
];

/// Sets, removes or doubles one line of a TOML file, or changes its bytes.
pub(super) fn of_toml(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = good.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let has_words = |line: &Vec<u8>| line.first().is_some_and(|first| *first != b'#');
    let places: Vec<usize> = (0..lines.len()).filter(|at| has_words(&lines[*at])).collect();
    let at = places[random.below(places.len())];
    let key = lines[at].iter().position(|byte| *byte == b'=').map_or(lines[at].len(), |equals| equals + 1);
    let value = match random.below(8) {
        0 => return of_bytes(good, random),
        1 => "[".repeat(100_000).into_bytes(),
        2 => [&b"{a="[..]; 100_000].concat(),
        3 => TOML_VALUES[random.below(TOML_VALUES.len())].to_vec(),
        4 => {
            let line = lines[at].clone();
            lines.insert(at, line);
            return lines.join(&b'\n');
        }
        5 => {
            lines.remove(at);
            return lines.join(&b'\n');
        }
        _ => VALUES[random.below(VALUES.len())].to_vec(),
    };
    lines[at].truncate(key);
    lines[at].extend([&b" "[..], &value].concat());
    lines.join(&b'\n')
}
