//! The tests, by name.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::Result;
use remapping_unit_model::Configuration;

use crate::tools::Qemu;
use crate::{native, program};

/// Programs for each set of options.
const PROGRAMS: u64 = 300;

/// QEMU's unit, as the model is told to be.
fn qemu_unit() -> Configuration {
    Configuration {
        domains: 6,
        levels: 0b0110,
        width: 48,
        host_width: 48,
        large_pages: 3,
        page_selective: Some(18),
        draining: true,
        fault_records: 1,
        coherent: false,
        device_tlb: false,
        extended_interrupts: true,
        pass_through: true,
        handle_mask: 15,
        ..Configuration::default()
    }
}

/// Options of QEMU's unit, and what the model is told.
fn units() -> Vec<(&'static str, &'static str, Configuration)> {
    let unit = qemu_unit();
    vec![
        ("default", "intremap=on,eim=on", unit),
        (
            "aw-bits-39",
            "intremap=on,eim=on,aw-bits=39",
            Configuration { levels: 0b0010, width: 39, host_width: 39, ..unit },
        ),
        ("caching-mode", "intremap=on,eim=on,caching-mode=on", Configuration { caching_mode: true, ..unit }),
        ("snoop-control", "intremap=on,eim=on,snoop-control=on", Configuration { snoop_control: true, ..unit }),
        ("device-iotlb", "intremap=on,eim=on,device-iotlb=on", Configuration { device_tlb: true, ..unit }),
        ("no-pass-through", "intremap=on,eim=on,pt=off", Configuration { pass_through: false, ..unit }),
        (
            "no-eim",
            "intremap=on,eim=off,dma-drain=off",
            Configuration { extended_interrupts: false, draining: false, ..unit },
        ),
    ]
}

/// What the driver meets: options, whether APIC ids have 32 bits, and whether pages may be only written.
const DRIVEN: &[(&str, &str, bool, bool)] = &[
    ("default", "intremap=on,eim=on", true, true),
    ("aw-bits-39", "intremap=on,eim=on,aw-bits=39", true, true),
    ("caching-mode", "intremap=on,eim=on,caching-mode=on", true, true),
    ("snoop-control", "intremap=on,eim=on,snoop-control=on", true, true),
    ("device-iotlb", "intremap=on,eim=on,device-iotlb=on", true, true),
    ("no-eim", "intremap=on,eim=off", false, true),
    ("scalable", "intremap=on,eim=on,x-scalable-mode=on", true, true),
    ("first-stage", "intremap=on,eim=on,x-scalable-mode=on,x-flts=on", true, false),
];

/// Runs the tests whose names contain `name`. False: one failed.
pub(crate) fn run(name: Option<&str>) -> Result<bool> {
    let qemu = Qemu::find()?;
    let seed = program::wanted_seed()?;
    let mut passed = true;
    for (index, (unit, options, configuration)) in units().into_iter().enumerate() {
        let (first, count) = match seed {
            Some(seed) => (seed, 1),
            None => (index as u64 * 1_000_000, PROGRAMS),
        };
        let test = format!("programs-{unit}");
        passed &= one(name, &test, || program::search(&qemu, options, &configuration, first, count))?;
    }
    for (unit, options, wide, write_only) in DRIVEN {
        let seed = seed.unwrap_or(1);
        passed &= one(name, &format!("driver-{unit}"), || native::run(&qemu, options, *wide, *write_only, seed))?;
    }
    Ok(passed)
}

fn one(wanted: Option<&str>, test: &str, work: impl FnOnce() -> Result<String>) -> Result<bool> {
    if wanted.is_some_and(|wanted| !test.contains(wanted)) {
        return Ok(true);
    }
    let start = Instant::now();
    // The driver's doors have no errors: a lost emulator panics there.
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
    let seconds = start.elapsed().as_secs_f32();
    match result {
        Ok(said) => println!("test qtest::{test} ... ok\n{said} in {seconds:.1} s"),
        Err(error) => {
            println!("test qtest::{test} ... FAILED\n\nfailures:\n{test}: {error:#}\ntest result: FAILED");
            return Ok(false);
        }
    }
    Ok(true)
}
