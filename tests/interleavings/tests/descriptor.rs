//! The mailbox: posters against its reader.

use interleavings::{LoomWord, Wire};
use iommu::interrupt::posted::PostedInterruptDescriptor;
use loom::sync::Arc;
use loom::thread;

type Descriptor = PostedInterruptDescriptor<LoomWord>;

fn add(total: &mut [u32; 256], taken: [u64; 4]) {
    for vector in 0..=255u8 {
        total[usize::from(vector)] += (taken[usize::from(vector >> 6)] >> (vector & 63) & 1) as u32;
    }
}

/// Posts from two processors, of which the reader takes some while they come and the rest when it is notified.
fn every_post_is_taken_once(vectors: [u8; 2]) {
    loom::model(move || {
        let shared = Arc::new((Descriptor::default(), Wire::default()));
        let posters = vectors.map(|vector| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if shared.0.post(vector) {
                    shared.1.send(0);
                }
            })
        });
        let mut total = [0; 256];
        if let Some(taken) = shared.0.take() {
            add(&mut total, taken);
        }
        posters.into_iter().for_each(|poster| poster.join().unwrap());
        // The reader does not look again by itself: what it has not taken has to notify it.
        if shared.1.answer(0)
            && let Some(taken) = shared.0.take()
        {
            add(&mut total, taken);
        }
        for (vector, count) in total.into_iter().enumerate() {
            let posted = vectors.iter().filter(|posted| usize::from(**posted) == vector).count() as u32;
            // The same vector twice may be taken once: a second request before the first is taken is the same request.
            assert!(count <= posted && (count > 0) == (posted > 0), "vector {vector}: {count} for {posted} posts");
        }
        assert!(!shared.0.is_outstanding() && !shared.0.has_requests());
    });
}

#[test]
fn two_vectors_of_different_words() {
    every_post_is_taken_once([0x20, 0xff]);
}

#[test]
fn the_same_vector_twice() {
    every_post_is_taken_once([0x41, 0x41]);
}

/// The remapping unit and a handler of the host post at once.
#[test]
fn both_kinds_of_poster() {
    loom::model(|| {
        let shared = Arc::new((Descriptor::default(), Wire::default()));
        let unit = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if shared.0.post_by_control(0x41, false).is_some() {
                    shared.1.send(0);
                }
            })
        };
        let handler = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if shared.0.post(0x42) {
                    shared.1.send(0);
                }
            })
        };
        let mut total = [0; 256];
        if let Some(taken) = shared.0.take() {
            add(&mut total, taken);
        }
        unit.join().unwrap();
        handler.join().unwrap();
        if shared.1.answer(0)
            && let Some(taken) = shared.0.take()
        {
            add(&mut total, taken);
        }
        assert_eq!((total[0x41], total[0x42], total.iter().sum()), (1, 1, 2u32));
    });
}
