//! Scalable mode: device 00:01.0, whose requests without a PASID go by PASID 5.

use std::vec;

use super::bench::Ram;
use crate::*;

const ROOT: u64 = 0x1000;
const CONTEXT: u64 = 0x2100;
const DIRECTORY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const QUEUE: u64 = 0x8000;
/// The second stage leads page 0x1000 to 0x9000_0000, and below 0x10_0000 every page to itself (for nesting).
const SECOND: u64 = 0x1_0000;
const SECOND_LEAVES: u64 = 0x1_3000;
/// The first stage leads page 0x1000 to 0x9100_0000, read-only, and page 0x2000 to page 0x1000.
const FIRST: u64 = 0x2_0000;
const FIRST_LEAVES: u64 = 0x2_3000;
const DEVICE: u16 = 8;
const RID_PASID: u64 = 5;

struct Bench {
    unit: Unit<Ram>,
    ram: Ram,
    tail: u64,
}

fn unit() -> Configuration {
    Configuration { coherent: true, scalable: Some(Scalable::default()), ..Configuration::default() }
}

impl Bench {
    fn new(configuration: Configuration) -> Self {
        let ram = Ram::default();
        ram.put(ROOT, 0x2001);
        ram.put(CONTEXT, DIRECTORY | 1 << 3 | 1);
        ram.put(CONTEXT + 8, RID_PASID);
        ram.put(DIRECTORY, TABLE | 1);
        for level in 0..3 {
            ram.put(SECOND + level * 4096, SECOND + (level + 1) * 4096 + 3);
            ram.put(FIRST + level * 4096, FIRST + (level + 1) * 4096 + 7);
        }
        for page in 0..256 {
            ram.put(SECOND_LEAVES + page * 8, page << 12 | 3);
        }
        ram.put(SECOND_LEAVES + 8, 0x9000_0003);
        ram.put(FIRST_LEAVES + 8, 0x9100_0005);
        ram.put(FIRST_LEAVES + 16, 0x1007);
        let mut bench = Self { unit: Unit::new(configuration, ram.clone()), ram, tail: 0 };
        bench.second_stage(RID_PASID, 7);
        bench.unit.write_u64(0x88, 0);
        bench.unit.write_u64(0x90, QUEUE | 1 << 11);
        bench.unit.write_u32(0x18, 1 << 26);
        bench.unit.write_u64(0x20, ROOT | 1 << 10);
        bench.unit.write_u32(0x18, 1 << 26 | 1 << 30);
        bench.submit(1 | 1 << 4, 0);
        bench.submit(7 | 3 << 4, 0);
        bench.submit(2 | 1 << 4, 0);
        bench.unit.write_u32(0x18, 1 << 26 | 1 << 31);
        bench
    }

    fn entry(&self, pasid: u64, words: [u64; 3]) {
        for (word, value) in (1..).zip(&words[1..]) {
            self.ram.put(TABLE + pasid * 64 + word * 8, *value);
        }
        self.ram.put(TABLE + pasid * 64, words[0]);
    }

    fn second_stage(&self, pasid: u64, domain: u64) {
        self.entry(pasid, [SECOND | 2 << 6 | 2 << 2 | 1, domain | 1 << 23, 0]);
    }

    fn first_stage(&self, pasid: u64, domain: u64) {
        self.entry(pasid, [1 << 6 | 1, domain | 1 << 23, FIRST]);
    }

    fn submit(&mut self, low: u64, high: u64) {
        self.ram.put(QUEUE + self.tail, low);
        self.ram.put(QUEUE + self.tail + 8, high);
        self.tail = (self.tail + 32) % 4096;
        self.unit.write_u64(0x88, self.tail);
    }

    fn ask(&mut self, pasid: Option<u32>, address: u64, access: Access) -> Result<u64, Refusal> {
        let request = Request { source: DEVICE, address, access, address_type: AddressType::Untranslated };
        match pasid {
            Some(pasid) => self.unit.request_with_pasid(request, pasid),
            None => self.unit.request(request),
        }
    }

    fn read(&mut self, address: u64) -> Result<u64, Refusal> {
        self.ask(None, address, Access::Read)
    }

    fn assert_clean(&mut self) {
        self.unit.audit();
        assert_eq!(self.unit.violations(), []);
    }
}

fn fault<T>(why: u8) -> Result<T, Refusal> {
    Err(Refusal::Fault(why))
}

#[test]
fn the_second_stage_translates() {
    let mut bench = Bench::new(unit());
    assert_eq!(bench.read(0x1234), Ok(0x9000_0234));
    assert_eq!(bench.ask(Some(5), 0x1234, Access::Write), Ok(0x9000_0234));
    assert_eq!(bench.read(0x20_0000), fault(reason::SECOND_STAGE_PERMISSION));
    assert_eq!(bench.read(1 << 48), fault(reason::BEYOND_SECOND_STAGE));
    bench.assert_clean();
    bench.ram.put(SECOND_LEAVES + 8, 1 << 62 | 3);
    bench.submit(2 | 2 << 4 | 7 << 16, 0);
    assert_eq!(bench.read(0x1234), fault(reason::SECOND_STAGE_RESERVED));
}

#[test]
fn the_first_stage_translates_and_marks_what_was_used() {
    let mut bench = Bench::new(unit());
    bench.first_stage(6, 9);
    assert_eq!(bench.ask(Some(6), 0x1008, Access::Read), Ok(0x9100_0008));
    assert_eq!(bench.ram.read(FIRST_LEAVES + 8), Some(0x9100_0025), "accessed");
    assert_eq!(bench.ask(Some(6), 0x1008, Access::Write), fault(reason::FIRST_STAGE_WRITE));
    assert_eq!(bench.ask(Some(6), 0x2000, Access::Read), Ok(0x1000));
    assert_eq!(bench.ask(Some(6), 0x2000, Access::Write), Ok(0x1000));
    assert_eq!(bench.ram.read(FIRST_LEAVES + 16), Some(0x1067), "dirty, though cached clean");
    assert_eq!(bench.ask(Some(6), 0x5000, Access::Read), fault(reason::FIRST_STAGE_NOT_PRESENT));
    assert_eq!(bench.ask(Some(6), 1 << 47, Access::Read), fault(reason::NOT_CANONICAL));
    bench.assert_clean();
    for (value, why) in [
        (0x9100_0001, reason::SUPERVISOR_ONLY),
        (0x9100_0005 | 1 << 63, reason::FIRST_STAGE_RESERVED),
        (0x9100_0005 | 1 << 50, reason::FIRST_STAGE_RESERVED),
        (0xfee0_0005, reason::SCALABLE_OUTPUT_IN_INTERRUPT_RANGE),
    ] {
        bench.ram.put(FIRST_LEAVES + 8, value);
        bench.submit(6 | 2 << 4 | 9 << 16 | 6 << 32, 0);
        assert_eq!(bench.ask(Some(6), 0x1008, Access::Read), fault(why), "{value:#x}");
    }
}

#[test]
fn a_walk_that_does_not_snoop_marks_nothing() {
    let scalable = Some(Scalable { coherent: false, ..Scalable::default() });
    let mut bench = Bench::new(Configuration { scalable, ..unit() });
    bench.first_stage(6, 9);
    assert_eq!(bench.ask(Some(6), 0x1008, Access::Read), fault(reason::ACCESSED_WITHOUT_SNOOP));
    for at in [FIRST, FIRST + 0x1000, FIRST + 0x2000, FIRST_LEAVES + 8] {
        bench.ram.put(at, bench.ram.read(at).unwrap() | 0x20);
    }
    assert_eq!(bench.ask(Some(6), 0x1008, Access::Read), Ok(0x9100_0008));
}

#[test]
fn both_stages_translate_one_after_the_other() {
    let mut bench = Bench::new(unit());
    bench.entry(6, [SECOND | 3 << 6 | 2 << 2 | 1, 9 | 1 << 23, FIRST]);
    assert_eq!(bench.ask(Some(6), 0x2010, Access::Read), Ok(0x9000_0010));
    assert_eq!(bench.ask(Some(6), 0x1010, Access::Read), fault(reason::SECOND_STAGE_PERMISSION), "beyond the second");
    bench.assert_clean();
    // The second stage changes: what went through it is gone with it.
    bench.ram.put(SECOND_LEAVES + 8, 0x9200_0003);
    assert_eq!(bench.ask(Some(6), 0x2010, Access::Read), Ok(0x9000_0010), "stale");
    bench.submit(2 | 3 << 4 | 9 << 16, 0x1000);
    assert_eq!(bench.ask(Some(6), 0x2010, Access::Read), Ok(0x9200_0010));
    bench.assert_clean();
}

#[test]
fn passing_through_needs_the_capability() {
    for pass_through in [true, false] {
        let mut bench = Bench::new(Configuration { pass_through, ..unit() });
        bench.entry(6, [4 << 6 | 2 << 2 | 1, 9, 0]);
        let got = bench.ask(Some(6), 0x7000, Access::Write);
        assert_eq!(got, if pass_through { Ok(0x7000) } else { fault(reason::PASID_INVALID) });
        assert_eq!(bench.unit.violations().len(), usize::from(!pass_through));
    }
}

#[test]
fn a_pasid_entry_stays_until_it_is_invalidated() {
    let mut bench = Bench::new(unit());
    bench.read(0x1000).unwrap();
    bench.ram.put(TABLE + RID_PASID * 64, 0);
    bench.submit(7 | 1 << 4 | 8 << 16 | 5 << 32, 0);
    bench.submit(7 | 1 << 4 | 7 << 16 | 6 << 32, 0);
    bench.submit(2 | 1 << 4, 0);
    assert_eq!(bench.read(0x1000), Ok(0x9000_0000), "another domain, another PASID");
    bench.unit.audit();
    let at = TABLE + RID_PASID * 64;
    assert_eq!(bench.unit.violations(), [Violation::Stale { structure: Structure::PasidTable, at }]);
    bench.submit(7 | 1 << 4 | 7 << 16 | 5 << 32, 0);
    assert_eq!(bench.read(0x1000), fault(reason::PASID_NOT_PRESENT));
    bench.second_stage(RID_PASID, 7);
    bench.read(0x1000).unwrap();
    bench.first_stage(RID_PASID, 7);
    bench.unit.observe();
    assert_eq!(bench.unit.violations()[1], Violation::PresentPasidChanged { at });
}

#[test]
fn absence_of_a_pasid_is_cached_in_caching_mode_alone() {
    for caching_mode in [false, true] {
        let mut bench = Bench::new(Configuration { caching_mode, ..unit() });
        assert_eq!(bench.ask(Some(6), 0x1000, Access::Read), fault(reason::PASID_NOT_PRESENT));
        bench.second_stage(6, 9);
        assert_eq!(bench.ask(Some(6), 0x1000, Access::Read).is_err(), caching_mode);
        bench.submit(7 | 1 << 4 | 9 << 16 | 6 << 32, 0);
        assert_eq!(bench.ask(Some(6), 0x1000, Access::Read), Ok(0x9000_0000));
        bench.assert_clean();
    }
}

#[test]
fn translations_of_each_stage_have_their_own_invalidation() {
    let mut bench = Bench::new(unit());
    bench.first_stage(6, 9);
    bench.ask(Some(6), 0x1000, Access::Read).unwrap();
    bench.read(0x1000).unwrap();
    bench.ram.put(FIRST_LEAVES + 8, 0);
    bench.ram.put(SECOND_LEAVES + 8, 0);
    bench.submit(2 | 3 << 4 | 9 << 16, 0x1000);
    bench.submit(6 | 3 << 4 | 7 << 16 | 5 << 32, 0x1000);
    assert_eq!(bench.ask(Some(6), 0x1000, Access::Read), Ok(0x9100_0000), "stale");
    assert_eq!(bench.read(0x1000), Ok(0x9000_0000), "stale");
    bench.submit(6 | 3 << 4 | 9 << 16 | 6 << 32, 0x1000);
    bench.submit(2 | 3 << 4 | 7 << 16, 0x1000);
    assert!(bench.ask(Some(6), 0x1000, Access::Read).is_err() && bench.read(0x1000).is_err());
    bench.assert_clean();
}

#[test]
fn entries_without_meaning_are_faults() {
    let cases = [
        (ROOT, 0, reason::SCALABLE_ROOT_NOT_PRESENT, false),
        (ROOT, 0x2003, reason::SCALABLE_ROOT_RESERVED, true),
        (ROOT, 0x20_0001, reason::SCALABLE_CONTEXT_ACCESS, false),
        (CONTEXT, 0, reason::SCALABLE_CONTEXT_NOT_PRESENT, false),
        (CONTEXT, DIRECTORY | 1 << 5 | 1, reason::SCALABLE_CONTEXT_RESERVED, true),
        (CONTEXT + 24, 1, reason::SCALABLE_CONTEXT_RESERVED, true),
        (CONTEXT, DIRECTORY | 1 << 4 | 1, reason::SCALABLE_CONTEXT_INVALID, true),
        (CONTEXT + 8, 1 << 13, reason::RID_PASID_INVALID, false),
        (CONTEXT, 0x20_0001, reason::DIRECTORY_ACCESS, false),
        (DIRECTORY, 0, reason::DIRECTORY_NOT_PRESENT, false),
        (DIRECTORY, TABLE | 5, reason::DIRECTORY_RESERVED, true),
        (DIRECTORY, 0x20_0001, reason::PASID_ACCESS, false),
        (TABLE + RID_PASID * 64, 0, reason::PASID_NOT_PRESENT, false),
        (TABLE + RID_PASID * 64 + 40, 1, reason::PASID_RESERVED, true),
        (TABLE + RID_PASID * 64, SECOND | 5 << 6 | 1, reason::PASID_INVALID, true),
        (TABLE + RID_PASID * 64, SECOND | 2 << 6 | 3 << 2 | 1, reason::PASID_INVALID, true),
        (SECOND, 0x20_0003, reason::SECOND_STAGE_ACCESS, false),
    ];
    for (at, value, why, violation) in cases {
        let mut bench = Bench::new(unit());
        bench.ram.put(at, value);
        assert_eq!(bench.read(0x1000), fault(why), "{at:#x} {value:#x}");
        assert_eq!(!bench.unit.violations().is_empty(), violation, "{at:#x} {value:#x}");
    }
}

#[test]
fn faults_name_the_pasid_unless_an_entry_silences_them() {
    let mut bench = Bench::new(unit());
    bench.ask(Some(9), 0x1000, Access::Read).unwrap_err();
    let high = bench.unit.read_u64(0x228);
    assert_eq!(high, 1 << 63 | 1 << 62 | 9 << 40 | u64::from(reason::PASID_NOT_PRESENT) << 32 | 1 << 31 | 8);
    bench.unit.write_u32(0x22c, 1 << 31);
    bench.ram.put(DIRECTORY, TABLE | 3);
    bench.submit(7 | 3 << 4, 0);
    bench.ask(Some(9), 0x1000, Access::Read).unwrap_err();
    assert_eq!(bench.unit.read_u32(0x34), 0, "FPD of the directory");
    bench.ram.put(CONTEXT, DIRECTORY | 1);
    bench.submit(1 | 3 << 4 | 8 << 32, 0);
    assert_eq!(bench.ask(Some(5), 0x1000, Access::Read), fault(reason::PASID_DISABLED));
    assert_eq!(bench.ask(Some(1 << 13), 0x1000, Access::Read), fault(reason::PASID_DISABLED));
}

#[test]
fn a_device_tlb_keeps_what_it_holds_by_pasid() {
    let mut bench = Bench::new(unit());
    bench.ram.put(CONTEXT, DIRECTORY | 1 << 3 | 1 << 2 | 1);
    bench.second_stage(6, 9);
    let ask = |bench: &mut Bench| bench.unit.request_through_device_tlb_with_pasid(DEVICE, 6, 0x1008, Access::Read);
    assert_eq!(ask(&mut bench), Ok(0x9000_0008));
    bench.ram.put(SECOND_LEAVES + 8, 0);
    bench.submit(2 | 2 << 4 | 9 << 16, 0);
    bench.submit(3 | 8 << 32, 0x1000);
    assert_eq!(ask(&mut bench), Ok(0x9000_0008), "that was for requests without a PASID");
    bench.unit.audit();
    assert_eq!(bench.unit.violations(), [Violation::StaleDeviceTlb { source: DEVICE, address: 0x1000 }]);
    bench.submit(8 | 8 << 16 | 6 << 32, 0x1000);
    assert_eq!(ask(&mut bench), Err(Refusal::NoTranslation));
}

#[test]
fn invalidations_of_pasids_need_the_mode_and_the_width() {
    let mut bench = super::bench::Bench::new(super::bench::coherent());
    bench.submit(7 | 3 << 4, 0);
    assert_eq!(bench.violations(), [Violation::ScalableInvalidation { low: 7 | 3 << 4 }]);
    let mut bench = super::bench::Bench::new(unit());
    bench.submit(6 | 2 << 4, 0);
    assert_eq!(bench.unit.read_u64(0xb0) & 15, 5);
    let mut bench = Bench::new(unit());
    bench.ram.put(QUEUE + bench.tail + 16, 1);
    bench.submit(7 | 3 << 4, 0);
    assert_eq!(bench.unit.violations(), [Violation::ReservedInDescriptor { low: 7 | 3 << 4, high: 0 }]);
    let mut bench = Bench::new(unit());
    bench.unit.write_u64(0x88, bench.tail + 16);
    assert_eq!(bench.unit.read_u64(0xb0) & 15, 6);
    assert_eq!(bench.unit.violations(), vec![Violation::TailOutsideQueue { tail: bench.tail + 16 }]);
}

#[test]
fn a_new_root_table_owes_the_pasid_caches_too() {
    let mut bench = Bench::new(unit());
    bench.read(0x1000).unwrap();
    bench.unit.write_u64(0x20, ROOT);
    bench.unit.write_u32(0x18, 1 << 26 | 1 << 30 | 1 << 31);
    assert_eq!(bench.unit.violations(), [Violation::WrittenWhileOn { offset: 0x20 }], "another mode, live");
    let mut bench = Bench::new(unit());
    bench.unit.write_u32(0x18, 1 << 26 | 1 << 30 | 1 << 31);
    bench.submit(1 | 1 << 4, 0);
    bench.submit(2 | 1 << 4, 0);
    bench.unit.audit();
    assert_eq!(bench.unit.violations(), [Violation::RootNotInvalidated]);
    let mut bench = super::bench::Bench::new(unit());
    let request = Request { source: 8, address: 0, access: Access::Read, address_type: AddressType::Untranslated };
    assert_eq!(bench.unit.request_with_pasid(request, 1), fault(reason::PASID_IN_LEGACY_MODE));
}
