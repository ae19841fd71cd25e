//! Fuzzing of parsers by tests: mutations of valid inputs, bounded by rounds, or by
//! `CORTEN_FUZZ_SECONDS` for longer runs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many inputs each target gets without a time.
const ROUNDS: usize = 3000;
/// How long one input may take: a parser that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest input that mutations make.
const MAX_BYTES: usize = 1 << 20;

/// Numbers at which parsers break.
const NUMBERS: [u64; 8] =
    [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// Gives `target` mutations of `seeds`, which must not be empty.
///
/// # Panics
/// Where the target does, or takes longer than 5 s; the input is written to the temporary
/// directory then, and its seed printed.
pub fn fuzz(name: &str, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    let seconds = std::env::var("CORTEN_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = if seconds.is_some() { clock.as_secs() } else { 1 };
    let mut random = Random(seed | 1);
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    for seed in seeds {
        target(seed);
    }
    let mut round = 0;
    while until.map_or(round < ROUNDS, |until| Instant::now() < until) {
        round += 1;
        let input = mutate(seeds, &mut random);
        let witness = Witness { name, seed, round, input: &input };
        let begun = Instant::now();
        target(&input);
        assert!(begun.elapsed() < PATIENCE, "{name} takes too long (seed {seed}, round {round})");
        std::mem::forget(witness);
    }
    if let Some(seconds) = seconds {
        println!("figure fuzz {name}: {round} inputs in {seconds} s");
    }
}

/// Tells of the input if the target panics.
struct Witness<'a> {
    name: &'a str,
    seed: u64,
    round: usize,
    input: &'a [u8],
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        let path = std::env::temp_dir().join(format!("fuzz-{}-{}", self.name, self.round));
        let written = std::fs::write(&path, self.input);
        eprintln!(
            "fuzz {}: seed {}, round {}, input in {} ({written:?})",
            self.name,
            self.seed,
            self.round,
            path.display()
        );
    }
}

/// An xorshift generator: any numbers do, as long as they can be had again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).unwrap_or(1);
        usize::try_from(self.next() % limit).unwrap_or(0)
    }
}

fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len());
        match random.below(8) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = random.next().to_le_bytes()[0],
            2 => input.truncate(at),
            3 => {
                let number = NUMBERS[random.below(NUMBERS.len())];
                let text = number.to_string();
                let bytes = number.to_le_bytes();
                let with = if random.below(2) == 0 { text.as_bytes() } else { &bytes };
                let end = (at + with.len()).min(input.len());
                input.splice(at..end, with.iter().copied());
            }
            4 => {
                let end = at + random.below(input.len() - at + 1);
                let piece = input[at..end].to_vec();
                let place = random.below(input.len() + 1);
                input.splice(place..place, piece);
            }
            5 => {
                let end = at + random.below(input.len() - at + 1);
                input.drain(at..end);
            }
            6 => {
                let other = &seeds[random.below(seeds.len())];
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            _ => {
                let byte = random.next().to_le_bytes()[1];
                let count = random.below(600);
                input.splice(at..at, std::iter::repeat_n(byte, count));
            }
        }
        input.truncate(MAX_BYTES);
    }
    input
}

#[cfg(test)]
mod tests {
    use super::fuzz;

    #[test]
    fn mutations_find_what_lies_near() {
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        let (same, shorter, longer) =
            (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        fuzz("itself", &[b"abcdefgh".to_vec(), b"{\"size\":12}".to_vec()], |input| {
            let counter = match input.len() {
                8 => &same,
                0..8 => &shorter,
                _ => &longer,
            };
            counter.fetch_add(1, Relaxed);
        });
        assert!([same, shorter, longer].iter().all(|count| count.load(Relaxed) > 100));
    }
}
