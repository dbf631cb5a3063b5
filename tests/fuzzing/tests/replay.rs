//! Every target on the kept corpus (`fuzz/corpus`) and on a fixed number of its mutations: the same ones on every run.

use std::fs;
use std::path::Path;

/// Marsaglia's xorshift: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "an empty corpus tests nothing");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn mutate(random: &mut Random, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut data = inputs[random.below(inputs.len())].clone();
    for _ in 0..1 + random.below(8) {
        let at = random.below(data.len());
        match random.below(6) {
            0 => data.truncate(at),
            1 => data.insert(at, random.next() as u8),
            2 => {
                let other = &inputs[random.below(inputs.len())];
                let from = random.below(other.len());
                data.truncate(at);
                data.extend(&other[from..]);
            }
            3 if !data.is_empty() => data[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            4 if !data.is_empty() => data[at] ^= 1 << random.below(8),
            _ if !data.is_empty() => data[at] = random.next() as u8,
            _ => {}
        }
    }
    data.truncate(4096);
    data
}

fn replay(target: &str, run: fn(&[u8]), mutations: usize) {
    let inputs = corpus(target);
    inputs.iter().for_each(|input| run(input));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..mutations {
        let data = mutate(&mut random, &inputs);
        let outcome = std::panic::catch_unwind(|| run(&data));
        assert!(outcome.is_ok(), "{target} fails on {data:02x?}: keep it as a file in fuzz/corpus/{target}");
    }
}

#[test]
fn dmar() {
    replay("dmar", fuzzing::dmar, 5000);
}

#[test]
fn fault() {
    replay("fault", fuzzing::fault, 5000);
}

#[test]
fn driver() {
    replay("driver", fuzzing::driver, 150);
}
