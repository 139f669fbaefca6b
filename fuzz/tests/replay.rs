//! What `scripts/fuzz` found stays mended: every input of the corpora is read again, and some neighbours of each, the same
//! ones at every run.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use fuzz::{TARGETS, Target};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// Neighbours of each input.
const NEIGHBOURS: usize = 200;

#[test]
fn corpora_and_their_neighbours_are_read() {
    for target in &TARGETS {
        target.warm_up();
        let corpus = corpus(target);
        let mut random = StdRng::seed_from_u64(42);
        for input in &corpus {
            check(target, input);
            for _ in 0..NEIGHBOURS {
                check(target, &neighbour(input, &corpus, &mut random));
            }
        }
    }
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("an input")).collect()
}

/// Leaves the input that breaks the target where `scripts/fuzz TARGET FILE` can be given it.
fn check(target: &Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target.run(input))).is_err() {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("broke-{}", target.name));
        fs::write(&file, input).expect("room for an input");
        panic!("{} broke of {}", target.name, file.display());
    }
}

/// An input with one to three changes: a bit, a byte, or a part that goes, comes twice or comes from another input.
fn neighbour(input: &[u8], corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.random_range(1..=3) {
        let part = part(&bytes, random);
        match random.random_range(0..6) {
            _ if bytes.is_empty() => bytes.push(random.random()),
            0 => bytes[part.start] ^= 1 << random.random_range(0..8),
            1 => bytes[part.start] = *[0, 1, 0x7f, 0x80, 0xff, random.random()].choose(random).expect("six bytes"),
            2 => drop(bytes.drain(part)),
            3 => bytes.truncate(part.start),
            4 => drop(bytes.splice(part.start..part.start, bytes[part.clone()].to_vec())),
            _ => {
                let other = corpus.choose(random).expect("at least this input");
                let stranger = self::part(other, random);
                bytes.splice(part, other[stranger].iter().copied());
            }
        }
    }
    bytes
}

/// At least one byte, at most 64, where there are some.
fn part(bytes: &[u8], random: &mut StdRng) -> std::ops::Range<usize> {
    let start = random.random_range(0..bytes.len().max(1));
    start.min(bytes.len())..(start + random.random_range(1..=64)).min(bytes.len())
}
