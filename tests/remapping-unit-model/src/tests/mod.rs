//! Each rule broken and kept.

mod bench;
mod interrupts;
mod scalable;

use bench::*;

use crate::*;

#[test]
fn a_unit_kept_to_the_rules_complains_of_nothing() {
    for delay in [0, 1, 5] {
        let mut bench = Bench::new(Configuration { delay, queue: true, ..coherent() });
        for _ in 0..20 {
            bench.unit.read_u32(0x1c);
        }
        assert_eq!(bench.read(0x1234), Ok(0x9000_0234));
        assert_eq!(bench.read(0x2234), Err(Refusal::Fault(reason::READ)));
        if delay == 0 {
            bench.unit.audit();
            assert_eq!(bench.violations(), []);
        }
    }
}

#[test]
fn commands_come_one_at_a_time_and_take_their_time() {
    let mut bench = Bench::new(coherent());
    bench.unit.write_u32(0x18, 0);
    assert!(matches!(bench.violations()[..], [Violation::NotOneCommand { .. }]));

    let mut unit = Unit::new(Configuration { delay: 3, ..coherent() }, Ram::default());
    unit.write_u64(0x20, ROOT);
    unit.write_u32(0x18, 1 << 30);
    assert_eq!(unit.read_u32(0x1c), 0);
    unit.write_u64(0x20, 0x5000);
    assert_eq!(unit.violations()[0], Violation::CommandPending { offset: 0x20 });
    assert_eq!((unit.read_u32(0x1c), unit.read_u32(0x1c)), (0, 1 << 30));
    assert_eq!(unit.root, Some(ROOT));
    unit.write_u32(0x18, 1 << 31);
    unit.write_u32(0x18, 1 << 31 | 1 << 26);
    assert!(unit.violations().contains(&Violation::CommandPending { offset: 0x18 }));
    assert!(unit.violations().contains(&Violation::RootNotInvalidated));
}

#[test]
fn registers_have_their_widths_and_directions() {
    let mut unit = Unit::new(coherent(), Ram::default());
    unit.write_u64(0x08, 1);
    unit.read_u32(0x18);
    unit.read_u64(0x34);
    unit.read_u32(0x1000);
    unit.write_u64(0x20, 0x1400);
    unit.write_u64(0x90, 0x1003);
    unit.write_u64(0x88, 0x8000);
    assert_eq!(
        unit.violations(),
        [
            Violation::ReadOnly { offset: 8 },
            Violation::ReadOnly { offset: 12 },
            Violation::WriteOnly { offset: 0x18 },
            Violation::AccessWidth { offset: 0x34 },
            Violation::OutsideWindow { offset: 0x1000 },
            Violation::ReservedInRegister { offset: 0x20, bits: 0x400 },
            Violation::TailOutsideQueue { tail: 0x8000 },
        ]
    );
}

#[test]
fn a_translation_stays_until_it_is_invalidated() {
    let mut bench = Bench::new(coherent());
    assert_eq!(bench.read(0x1000), Ok(0x9000_0000));
    bench.ram.put(LEAF, 0);
    assert_eq!(bench.read(0x1000), Ok(0x9000_0000), "stale");
    bench.submit(2 | 3 << 4 | 6 << 16, 0x1000);
    bench.submit(2 | 3 << 4 | 5 << 16, 0x2000);
    assert_eq!(bench.read(0x1000), Ok(0x9000_0000), "another domain, another page");
    bench.unit.audit();
    assert_eq!(bench.violations(), [Violation::Stale { structure: Structure::PageTable, at: LEAF }]);
    bench.forget_page();
    assert_eq!(bench.read(0x1000), Err(Refusal::Fault(reason::READ)));
    bench.unit.audit();
    assert_eq!(bench.violations().len(), 1);
}

#[test]
fn a_link_stays_when_only_leaves_are_invalidated() {
    let mut bench = Bench::new(coherent());
    bench.read(0x1000).unwrap();
    bench.ram.put(0x5000, 0);
    bench.submit(2 | 3 << 4 | 5 << 16, 0x1000 | 1 << 6);
    assert_eq!(bench.read(0x1000), Ok(0x9000_0000), "through the cached link");
    bench.unit.frame_freed(0x6000, 1);
    assert!(bench.violations().contains(&Violation::FrameFreed { structure: Structure::PageTable, frame: 0x6000 }));
    let known = bench.violations().len();
    bench.forget_page();
    assert!(bench.read(0x1000).is_err());
    bench.unit.frame_freed(0x6000, 1);
    assert_eq!(bench.violations().len(), known);
}

#[test]
fn a_unit_that_does_not_snoop_sees_what_was_flushed() {
    let mut bench = Bench::new(Configuration::default());
    bench.ram.put_unflushed(0x6010, 0x9100_0003);
    assert!(bench.read(0x2000).is_err());
    bench.ram.flush(0x6010);
    assert_eq!(bench.read(0x2000), Ok(0x9100_0000));
}

#[test]
fn absence_is_cached_in_caching_mode_alone() {
    for caching_mode in [false, true] {
        let mut bench = Bench::new(Configuration { caching_mode, ..coherent() });
        assert!(bench.read(0x2000).is_err());
        bench.ram.put(0x6010, 0x9100_0003);
        assert_eq!(bench.read(0x2000).is_err(), caching_mode);
        bench.submit(2 | 2 << 4 | 5 << 16, 0);
        assert_eq!(bench.read(0x2000), Ok(0x9100_0000));

        let stranger =
            Request { source: 16, address: 0x1000, access: Access::Write, address_type: AddressType::Untranslated };
        assert_eq!(bench.unit.request(stranger), Err(Refusal::Fault(reason::CONTEXT_NOT_PRESENT)));
        bench.ram.put(0x2108, 5 << 8 | 2);
        bench.ram.put(0x2100, 0x3001);
        assert_eq!(bench.unit.request(stranger).is_err(), caching_mode);
        bench.submit(1 | 3 << 4 | 5 << 16 | 16 << 32, 0);
        assert_eq!(bench.unit.request(stranger).is_err(), caching_mode, "absence is tagged with domain 0");
        bench.submit(1 | 3 << 4 | 16 << 32, 0);
        assert_eq!(bench.unit.request(stranger), Ok(0x9000_0000));
        assert_eq!(bench.violations(), []);
    }
}

#[test]
fn a_context_entry_goes_through_absence() {
    let mut bench = Bench::new(coherent());
    bench.read(0x1000).unwrap();
    bench.ram.put(CONTEXT, 0x3000);
    bench.submit(1 | 3 << 4 | 5 << 16 | 8 << 32, 0);
    bench.submit(2 | 2 << 4 | 5 << 16, 0);
    assert_eq!(bench.read(0x1000), Err(Refusal::Fault(reason::CONTEXT_NOT_PRESENT)));
    bench.ram.put(CONTEXT, 0x3001);
    bench.read(0x1000).unwrap();
    assert_eq!(bench.violations(), []);
    bench.ram.put(CONTEXT, 0x7001);
    bench.unit.observe();
    assert_eq!(bench.violations(), [Violation::PresentContextChanged { at: CONTEXT }]);
    // Without the invalidation of the domain's translations, its id leads to two tables.
    bench.submit(1 | 3 << 4 | 5 << 16 | 8 << 32, 0);
    bench.read(0x3000).unwrap_err();
    assert!(bench.violations().contains(&Violation::DomainReused { domain: 5 }));
}

#[test]
fn entries_without_meaning_are_faults_and_violations() {
    let cases = [
        (ROOT, 0x2003, reason::ROOT_RESERVED, true),
        (ROOT, 0, reason::ROOT_NOT_PRESENT, false),
        (CONTEXT, 0x3011, reason::CONTEXT_RESERVED, true),
        (CONTEXT, 0x300d, reason::CONTEXT_INVALID, true),
        (CONTEXT + 8, 5 << 8 | 3, reason::CONTEXT_INVALID, true),
        (CONTEXT + 8, 0x2000 << 8 | 2, reason::CONTEXT_RESERVED, true),
        (LEAF, 0x9000_0803, reason::PAGE_TABLE_RESERVED, true),
        (0x5000, 0x20_1083, reason::PAGE_TABLE_RESERVED, true),
        (LEAF, 0xfee0_0003, reason::OUTPUT_IN_INTERRUPT_RANGE, false),
        (0x5000, 0x20_0003, reason::PAGE_TABLE_ACCESS, false),
        (LEAF, 0x9000_0002, reason::READ, false),
    ];
    for (at, value, why, violation) in cases {
        let mut bench = Bench::new(coherent());
        bench.ram.put(at, value);
        assert_eq!(bench.read(0x1000), Err(Refusal::Fault(why)), "{at:#x} {value:#x}");
        assert_eq!(!bench.violations().is_empty(), violation, "{at:#x} {value:#x}");
    }
    let mut bench = Bench::new(coherent());
    assert_eq!(bench.read(1 << 48), Err(Refusal::Fault(reason::BEYOND_WIDTH)));
    assert_eq!(bench.read(0xfee0_1000), Err(Refusal::InterruptRange));
}

#[test]
fn the_queue_stops_at_what_it_does_not_know() {
    let cases = [
        (0x0f, 0, 3),
        (2 | 1 << 4 | 1 << 9, 0, 3),
        (1 | 1 << 4 | 1 << 6, 0, 4),
        (5, 0, 4),
        (5 | 3 << 4, 0xb000, 4),
        (2 | 3 << 4 | 5 << 16, 19, 4),
        (2 | 2 << 4 | 0x1000 << 16, 0, 4),
    ];
    for (low, high, code) in cases {
        let mut bench = Bench::new(coherent());
        bench.submit(low, high);
        assert_eq!(bench.violations().len(), 1, "{low:#x}");
        assert_eq!(bench.unit.read_u64(0xb0) & 15, code, "{low:#x}");
        assert_eq!(bench.unit.read_u32(0x34), 1 << 4);
        let head = bench.unit.read_u64(0x80);
        bench.submit(5 | 1 << 5 | 7 << 32, 0xb000);
        assert_eq!(bench.ram.read(0xb000), Some(0), "the queue stands still");
        // Replaced by a harmless wait.
        bench.ram.put(QUEUE + head, 5 | 1 << 5);
        bench.ram.put(QUEUE + head + 8, 0xb008);
        bench.unit.write_u32(0x34, 1 << 4);
        bench.unit.write_u64(0x88, bench.tail);
        assert_eq!(bench.ram.read(0xb000), Some(7));
    }
}

#[test]
fn a_device_that_does_not_answer_aborts_the_wait() {
    let mut bench = Bench::new(coherent());
    bench.unit.set_silent(DEVICE, true);
    bench.submit(3 | 8 << 32, 1);
    bench.submit(5 | 1 << 5 | 7 << 32, 0xb000);
    assert_eq!((bench.ram.read(0xb000), bench.unit.read_u32(0x34)), (Some(0), 1 << 6));
    assert_eq!(bench.unit.read_u64(0xb0) >> 32 & 0xffff, 8);
    bench.unit.write_u32(0x34, 1 << 6);
    bench.submit(5 | 1 << 5 | 8 << 32, 0xb000);
    assert_eq!(bench.ram.read(0xb000), Some(8));
    assert_eq!(bench.violations(), []);
}

#[test]
fn a_device_keeps_what_its_own_tlb_holds() {
    let mut bench = Bench::new(coherent());
    bench.ram.put(CONTEXT, 0x3005);
    let access = |bench: &mut Bench| bench.unit.request_through_device_tlb(DEVICE, 0x1008, Access::Read);
    assert_eq!(access(&mut bench), Ok(0x9000_0008));
    bench.ram.put(LEAF, 0);
    bench.forget_page();
    assert_eq!(access(&mut bench), Ok(0x9000_0008), "stale in the device");
    bench.unit.audit();
    assert_eq!(bench.violations(), [Violation::StaleDeviceTlb { source: DEVICE, address: 0x1000 }]);
    bench.submit(3 | 8 << 32, 0x1000);
    assert_eq!(access(&mut bench), Err(Refusal::NoTranslation));
}

#[test]
fn registers_invalidate_where_there_is_no_queue() {
    let mut bench = Bench::new(coherent());
    bench.read(0x1000).unwrap();
    bench.ram.put(LEAF, 0);
    bench.unit.write_u64(0xf8, 1 << 63 | 1 << 60);
    assert_eq!(bench.violations(), [Violation::RegisterInvalidationBesideQueue]);
    bench.command(1 << 26);
    bench.unit.write_u64(0xf8, 1 << 63 | 2 << 60 | 5 << 32);
    assert_eq!(bench.unit.read_u64(0xf8) >> 57 & 3, 2);
    assert!(bench.read(0x1000).is_err());
    bench.unit.write_u64(0x28, 1 << 63 | 1 << 61);
    assert_eq!(bench.unit.read_u64(0x28) >> 59, 1 | 1 << 2);
}

#[test]
fn faults_fill_the_records_and_then_overflow() {
    let mut bench = Bench::new(Configuration { fault_records: 2, ..coherent() });
    bench.unit.write_u32(0x3c, 0x41);
    bench.unit.write_u32(0x40, 0xfee0_1000);
    bench.read(0x2000).unwrap_err();
    assert!(bench.unit.take_messages().is_empty() && bench.unit.read_u32(0x38) == 3 << 30, "masked, so pending");
    bench.unit.write_u32(0x38, 0);
    assert_eq!(bench.unit.take_messages(), [Message { address: 0xfee0_1000, data: 0x41 }]);
    assert_eq!(bench.unit.read_u32(0x34), 2);
    assert_eq!(bench.unit.read_u64(0x220), 0x2000);
    assert_eq!(bench.unit.read_u64(0x228), 1 << 63 | 1 << 62 | 6 << 32 | 8);
    bench.read(0x2000).unwrap_err();
    bench.read(0x2000).unwrap_err();
    assert_eq!(bench.unit.read_u32(0x34), 3);
    bench.unit.write_u32(0x22c, 1 << 31);
    bench.unit.write_u32(0x23c, 1 << 31);
    bench.read(0x2000).unwrap_err();
    assert_eq!(bench.unit.read_u32(0x34), 1, "dropped while PFO is set");
    bench.unit.write_u32(0x34, 1);
    bench.read(0x2000).unwrap_err();
    assert_eq!((bench.unit.read_u32(0x34), bench.unit.take_messages().len()), (2, 1));
    bench.ram.put(CONTEXT, 2);
    bench.submit(1 | 1 << 4, 0);
    bench.unit.write_u32(0x22c, 1 << 31);
    bench.read(0x2000).unwrap_err();
    assert_eq!(bench.unit.read_u32(0x34), 0, "FPD silences it");
}

#[test]
fn protected_memory_stays_closed_until_it_is_opened() {
    let mut bench = Bench::new(Configuration { protected_low: true, ..coherent() });
    bench.unit.write_u32(0x68, 0x9000_0000);
    bench.unit.write_u32(0x6c, 0x9fff_ffff);
    bench.unit.write_u32(0x64, 1 << 31);
    assert_eq!(bench.read(0x1000), Err(Refusal::ProtectedMemory));
    bench.unit.write_u32(0x64, 0);
    assert_eq!(bench.read(0x1000), Ok(0x9000_0000));
}
