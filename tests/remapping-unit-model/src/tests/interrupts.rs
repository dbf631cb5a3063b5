//! Interrupts.

use std::vec;

use super::bench::*;
use crate::*;

#[test]
fn interrupts_go_where_their_entry_says_until_it_is_invalidated() {
    let mut bench = Bench::new(coherent());
    assert_eq!(bench.send(1), InterruptOutcome::Refused(reason::INTERRUPT_NOT_PRESENT));
    assert_eq!(bench.send(256), InterruptOutcome::Refused(reason::INTERRUPT_INDEX));
    bench.ram.put(INTERRUPTS + 24, 1 << 18 | 8);
    bench.ram.put(INTERRUPTS + 16, 3 << 40 | 0x55 << 16 | 1);
    let InterruptOutcome::Remapped { destination: 3, vector: 0x55, .. } = bench.send(1) else { panic!() };
    bench.ram.put(INTERRUPTS + 16, 4 << 40 | 0x56 << 16 | 1);
    let InterruptOutcome::Remapped { destination: 3, vector: 0x55, .. } = bench.send(1) else { panic!() };
    bench.unit.audit();
    assert_eq!(bench.violations(), [Violation::Stale { structure: Structure::Interrupts, at: INTERRUPTS + 16 }]);
    bench.submit(4 | 1 << 4 | 1 << 32, 0);
    let InterruptOutcome::Remapped { destination: 4, vector: 0x56, .. } = bench.send(1) else { panic!() };
    let stranger = Interrupt { source: 9, message: Message { address: 0xfee0_0018, data: 1 } };
    assert_eq!(bench.unit.interrupt(stranger), InterruptOutcome::Refused(reason::INTERRUPT_SOURCE));
    let old = Interrupt { source: 8, message: Message { address: 0xfee0_0000, data: 0x55 } };
    assert_eq!(bench.unit.interrupt(old), InterruptOutcome::Refused(reason::COMPATIBILITY));
    assert_eq!(bench.violations().len(), 1);
    bench.ram.put(INTERRUPTS + 16, 5 << 40 | 0x56 << 16 | 1);
    bench.unit.observe();
    bench.ram.put(INTERRUPTS + 24, 1 << 18 | 9);
    bench.unit.observe();
    assert_eq!(bench.violations()[1], Violation::TornInterruptEntry { at: INTERRUPTS + 16 });
}

#[test]
fn posted_interrupts_keep_to_the_protocol() {
    let mut bench = Bench::new(Configuration { posted_interrupts: true, ..coherent() });
    bench.ram.put(INTERRUPTS + 24, 1 << 18 | 8);
    bench.ram.put(INTERRUPTS + 16, DESCRIPTOR << 32 | 0x45 << 16 | 1 << 15 | 1);
    bench.ram.put(DESCRIPTOR + 32, 6 << 40 | 0xf2 << 16);
    let posted = |notification| InterruptOutcome::Posted { descriptor: DESCRIPTOR, vector: 0x45, notification };
    assert_eq!(bench.send(1), posted(Some(Notification { vector: 0xf2, destination: 6 })));
    assert_eq!(bench.ram.read(DESCRIPTOR + 8), Some(1 << 5));
    assert_eq!(bench.send(1), posted(None), "ON is set");
    bench.ram.put(DESCRIPTOR + 32, 6 << 40 | 0xf2 << 16 | 2);
    assert_eq!(bench.send(1), posted(None));
    assert_eq!(bench.ram.read(DESCRIPTOR + 32), Some(6 << 40 | 0xf2 << 16 | 2), "SN: no ON");
    bench.ram.put(INTERRUPTS + 40, 1 << 18 | 8);
    bench.ram.put(INTERRUPTS + 32, DESCRIPTOR << 32 | 0x45 << 16 | 1 << 15 | 1 << 14 | 1);
    assert_eq!(bench.send(2), posted(Some(Notification { vector: 0xf2, destination: 6 })), "urgent");
    bench.ram.put(DESCRIPTOR + 40, 1);
    assert_eq!(bench.send(1), InterruptOutcome::Refused(reason::DESCRIPTOR_RESERVED));
    bench.ram.put(INTERRUPTS + 32, 0x20_0000 << 32 | 0x45 << 16 | 1 << 15 | 1);
    bench.submit(4, 0);
    assert_eq!(bench.send(2), InterruptOutcome::Refused(reason::DESCRIPTOR_ACCESS));
    assert_eq!(bench.violations(), vec![]);
}
