//! A machine of QEMU whose processor only halts: everything in it is done by this process.
//!
//! Virtual time jumps to the next event whenever the processor idles, so a device's timer costs nothing.

mod devices;
mod memory;
mod monitor;
mod protocol;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

pub(crate) use devices::{DEVICES, Direction};
pub(crate) use memory::Shared;
use monitor::{Awaited, Monitor};
use protocol::Protocol;

use crate::tools::Qemu;

/// The remapping unit's registers.
pub(crate) const UNIT: u64 = 0xfed9_0000;
/// Bytes of memory, from address 0 on.
pub(crate) const MEMORY: u64 = 4 << 20;
/// Vectors below are exceptions'.
const FIRST_VECTOR: u8 = 32;
/// CLI; HLT; and back, where the processor starts.
const ROM: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];

/// The machine. It ends when this is dropped.
pub(crate) struct Emulator {
    child: Child,
    protocol: Protocol,
    monitor: Monitor,
    memory: Arc<Shared>,
    folder: PathBuf,
    /// The next vector that no interrupt has had.
    next_vector: u8,
}

impl Emulator {
    /// A machine whose remapping unit has these options.
    pub(crate) fn start(qemu: &Qemu, options: &str) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("postern-qtest-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut rom = vec![0; 0x1_0000];
        rom[0xfff0..0xfff4].copy_from_slice(&ROM);
        fs::write(folder.join("rom"), rom).context("cannot write the machine's ROM")?;
        let memory = Arc::new(Shared::new(folder.join("memory"), MEMORY)?);
        let socket = folder.join("monitor");
        let monitor = Awaited::at(&socket)?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = qemu.command();
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-smp", "1"])
            .args(["-accel", "tcg", "-icount", "shift=0,sleep=off", "-qtest", "stdio", "-qtest-log", "/dev/null"])
            .args(["-machine", "q35,memory-backend=memory", "-m", &format!("{MEMORY}B")])
            .arg("-object")
            .arg(format!("memory-backend-file,id=memory,size={MEMORY}B,share=on,mem-path={}", memory.file().display()))
            .arg("-bios")
            .arg(folder.join("rom"))
            .arg("-qmp")
            .arg(format!("unix:{}", socket.display()))
            .args(["-device", &format!("intel-iommu,{options}")]);
        devices::add(&mut command);
        // It says a line about each fault: of use only where somebody looks.
        command.stderr(fs::File::create(folder.join("errors"))?);
        let mut child = Self::spawn(&mut command, theirs)?;
        let connected = monitor.connect().and_then(|monitor| Ok((monitor, Protocol::new(ours)?)));
        let (monitor, protocol) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                let _ = child.kill();
                let said = fs::read_to_string(folder.join("errors")).unwrap_or_default();
                return Err(error.context(format!("QEMU with intel-iommu,{options}: {}", said.trim())));
            }
        };
        let mut emulator = Self { child, protocol, monitor, memory, folder, next_vector: FIRST_VECTOR };
        emulator.place_devices()?;
        Ok(emulator)
    }

    fn spawn(command: &mut Command, end: UnixStream) -> Result<Child> {
        let input = OwnedFd::from(end.try_clone()?);
        let child = command.stdin(Stdio::from(input)).stdout(Stdio::from(OwnedFd::from(end))).spawn();
        // The command holds its copies of the ends until it is changed: without them, QEMU's end is our news.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        child.context("cannot start QEMU")
    }

    pub(crate) fn memory(&self) -> &Arc<Shared> {
        &self.memory
    }

    /// A register of the unit.
    pub(crate) fn read_u32(&mut self, offset: u64) -> Result<u32> {
        Ok(self.protocol.ask(format_args!("readl {:#x}", UNIT + offset))? as u32)
    }

    /// A register of the unit.
    pub(crate) fn read_u64(&mut self, offset: u64) -> Result<u64> {
        self.protocol.ask(format_args!("readq {:#x}", UNIT + offset))
    }

    /// A register of the unit. Takes effect before the next thing that is asked.
    pub(crate) fn write_u32(&mut self, offset: u64, value: u32) -> Result<()> {
        self.protocol.tell(format_args!("writel {:#x} {value:#x}", UNIT + offset))
    }

    /// A register of the unit. Takes effect before the next thing that is asked.
    pub(crate) fn write_u64(&mut self, offset: u64, value: u64) -> Result<()> {
        self.protocol.tell(format_args!("writeq {:#x} {value:#x}", UNIT + offset))
    }

    /// Waits until every register write has had its effect on memory.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.protocol.settle()
    }

    /// A vector that has not arrived at the processor yet. It takes none, so each is of use once: when few are left,
    /// it takes another machine.
    pub(crate) fn new_vector(&mut self) -> u8 {
        let vector = self.next_vector;
        self.next_vector = vector.saturating_add(1);
        vector
    }

    /// Whether there are vectors for one more program.
    pub(crate) fn is_fresh(&self) -> bool {
        self.next_vector < 200
    }

    /// The vectors that have arrived at the processor.
    pub(crate) fn arrived(&mut self) -> Result<[u64; 4]> {
        self.protocol.settle()?;
        self.monitor.requested_interrupts()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail only where QEMU has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
