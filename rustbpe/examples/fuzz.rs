//! Looks for inputs that break the splitter, the trainer or the encoder, for as long as it is told:
//!
//!     cargo run --release --example fuzz -- SECONDS [SEED] [FILE...]
//!
//! SECONDS are of CPU time, so that a busy machine doesn't shorten the search. Inputs are made of telling characters, of
//! random bytes, and of stretches of the FILEs, and mutated again and again. One that breaks something is written to
//! `fuzz/inputs`, where `cargo test` finds it from then on.

#[path = "../fuzz/check.rs"]
mod check;

use std::hash::{BuildHasher, Hasher};
use std::panic::catch_unwind;
use std::path::Path;

/// What the patterns tell apart, and what UTF-8 does.
const TELLING: &[&[u8]] = &[
    b"a",
    b"b",
    b"ab",
    b" ",
    b"  ",
    b"\n",
    b"\r",
    b"\r\n",
    b"\t",
    b"'",
    b"'s",
    b"'LL",
    b"'ve",
    b"'\xC5\xBF",
    b"S",
    b"l",
    b"1",
    b"12",
    b"3456",
    b"!",
    b"...",
    b";\n",
    b" (",
    b"\n\nA",
    b"\x0b",
    b"\xC2\x85",
    b"\xC2\xA0",
    b"\xE3\x80\x80",
    b"\xE2\x80\xA8",
    b"\xC3\xA9",
    b"\xE6\xBC\xA2",
    b"\xF0\x9F\x99\x82",
    b"\xD9\xA0",
    b"\xC2\xBD",
    b"\xE2\x85\xAB",
    b"\xCC\x81",
    b"\xE0\xA4\xBF",
    b"\xFF",
    b"\x80",
    b"\xE2\x80",
    b"\xF0\x9F",
    b"\xED\xA0\x80",
    b"\xF4\x90\x80\x80",
    b"\xC0\xAF",
    b"\0",
    b"the",
    b" the ",
    b"aaaaaaaaaaaaaaaaaaaa",
    b"abababababab",
    b"antidisestablishmentarianism",
    b"                ",
];

/// A linear congruential generator (constants of Knuth's MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n.max(1) as u64) as usize
    }
}

fn fresh(numbers: &mut Numbers, files: &[Vec<u8>]) -> Vec<u8> {
    let mut input = vec![numbers.below(256) as u8, numbers.below(256) as u8];
    let length = 1 << numbers.below(11);
    // A few of the telling parts only, so that pairs repeat.
    let few: Vec<&[u8]> = (0..1 + numbers.below(8)).map(|_| TELLING[numbers.below(TELLING.len())]).collect();
    while input.len() < length {
        match numbers.below(12) {
            0 => input.push(numbers.below(256) as u8),
            1 if !files.is_empty() => {
                let file = &files[numbers.below(files.len())];
                let start = numbers.below(file.len());
                let end = (start + 1 + numbers.below(200)).min(file.len());
                input.extend_from_slice(&file[start..end]);
            }
            2 => {
                let code = char::from_u32(numbers.below(0x11_0000) as u32).unwrap_or('\u{fffd}');
                input.extend_from_slice(code.encode_utf8(&mut [0; 4]).as_bytes());
            }
            3 => input.extend_from_slice(TELLING[numbers.below(TELLING.len())]),
            _ => input.extend_from_slice(few[numbers.below(few.len())]),
        }
    }
    input
}

fn mutate(input: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..1 + numbers.below(4) {
        let at = numbers.below(input.len());
        match numbers.below(5) {
            0 => input[at] ^= 1 << numbers.below(8),
            1 => input[at] = numbers.below(256) as u8,
            2 if input.len() > 3 => {
                let end = (at + 1 + numbers.below(8)).min(input.len());
                input.drain(at..end);
            }
            3 => {
                let end = (at + 1 + numbers.below(40)).min(input.len());
                let again = input[at..end].to_vec();
                let place = numbers.below(input.len());
                input.splice(place..place, again);
            }
            _ => {
                let part = TELLING[numbers.below(TELLING.len())];
                input.splice(at..at, part.iter().copied());
            }
        }
        if input.is_empty() {
            input.push(0);
        }
    }
}

/// CPU time of this process, all its threads together.
fn cpu_seconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // Fills `time`, and can't fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as u64
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds: u64 =
        arguments.first().and_then(|it| it.parse().ok()).expect("the first argument is a time in seconds");
    let random = || std::hash::RandomState::new().build_hasher().finish();
    let seed = arguments.get(1).map_or_else(random, |it| it.parse().expect("the second argument is a number"));
    let files: Vec<Vec<u8>> = arguments.iter().skip(2).map(|it| std::fs::read(it).expect("a file")).collect();
    println!("seed {seed}");
    let mut numbers = Numbers(seed);
    let (mut done, mut failed) = (0u64, 0);
    let mut input = Vec::new();
    while cpu_seconds() < seconds {
        if done % 8 == 0 {
            input = fresh(&mut numbers, &files);
        } else {
            mutate(&mut input, &mut numbers);
        }
        if catch_unwind(|| check::check(&input)).is_err() {
            failed += 1;
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/inputs");
            std::fs::create_dir_all(&folder).expect("a folder to write to");
            std::fs::write(folder.join(format!("{seed}-{done}")), &input).expect("an input to keep");
        }
        done += 1;
    }
    println!("{done} inputs in {} s of CPU time, {failed} of them break something", cpu_seconds());
    std::process::exit(i32::from(failed > 0));
}
