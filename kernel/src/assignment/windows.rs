//! What a function's BARs decode on the machine, as `passthrough` reaches it.

use passthrough::door::{Width, Windows};
use x86_64::instructions::port::Port;

use crate::memory::{MapMmioError, Mmio};
use crate::platform::pci::{BarKind, Function};

/// The BARs 0 to 5 and the expansion ROM.
const COUNT: usize = 7;

/// One function's windows. Port BARs are reached by their ports, which stay where firmware put them.
#[derive(Clone, Debug)]
pub struct FunctionWindows {
    windows: [Window; COUNT],
}

#[derive(Clone, Copy, Debug)]
enum Window {
    Absent,
    Memory(Mmio),
    Ports { base: u16, length: u16 },
}

impl FunctionWindows {
    /// Maps every memory BAR of `function`, but not its ROM: that is off by default.
    ///
    /// `map` makes memory of a device reachable, uncached.
    pub fn map(
        function: &Function,
        map: impl Fn(iommu::address::HostPhysical, u64) -> Result<Mmio, MapMmioError>,
    ) -> Result<Self, MapMmioError> {
        let mut windows = [Window::Absent; COUNT];
        for (window, bar) in windows.iter_mut().zip(&function.bars) {
            let Some(bar) = bar else { continue };
            *window = match (bar.kind, bar.memory()) {
                (BarKind::Port, _) => match (u16::try_from(bar.address), u16::try_from(bar.size)) {
                    (Ok(base), Ok(length)) if base != 0 && base.checked_add(length - 1).is_some() => {
                        Window::Ports { base, length }
                    }
                    _ => Window::Absent,
                },
                (_, Some(address)) => Window::Memory(map(address, bar.size)?),
                (_, None) => Window::Absent,
            };
        }
        Ok(Self { windows })
    }

    fn window(&self, bar: u8) -> Window {
        self.windows.get(usize::from(bar)).copied().unwrap_or(Window::Absent)
    }
}

impl Windows for FunctionWindows {
    fn read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        match self.window(bar) {
            Window::Absent => !0,
            Window::Memory(mmio) => match width {
                Width::Byte => mmio.read_u8(offset).into(),
                Width::Word => mmio.read_u16(offset).into(),
                Width::Double => mmio.read_u32(offset).into(),
                Width::Quad => mmio.read_u64(offset),
            },
            Window::Ports { base, length } => match port(base, length, offset, width) {
                Some(port) => read_port(port, width).into(),
                None => !0,
            },
        }
    }

    fn write(&self, bar: u8, offset: u64, width: Width, value: u64) {
        match self.window(bar) {
            Window::Absent => {}
            Window::Memory(mmio) => match width {
                Width::Byte => mmio.write_u8(offset, value as u8),
                Width::Word => mmio.write_u16(offset, value as u16),
                Width::Double => mmio.write_u32(offset, value as u32),
                Width::Quad => mmio.write_u64(offset, value),
            },
            Window::Ports { base, length } => {
                if let Some(port) = port(base, length, offset, width) {
                    write_port(port, width, value as u32);
                }
            }
        }
    }
}

/// The port that an access of `width` at `offset` begins at; `None` when it leaves the BAR or is wider than a port.
fn port(base: u16, length: u16, offset: u64, width: Width) -> Option<u16> {
    let inside = offset.checked_add(width.bytes())? <= u64::from(length);
    (inside && width != Width::Quad).then_some(base.wrapping_add(offset as u16))
}

fn read_port(port: u16, width: Width) -> u32 {
    // SAFETY: the port belongs to a BAR of a function that this window's holder owns; what it does reaches that
    // function alone, and its DMA goes through remapping.
    unsafe {
        match width {
            Width::Byte => Port::<u8>::new(port).read().into(),
            Width::Word => Port::<u16>::new(port).read().into(),
            Width::Double | Width::Quad => Port::<u32>::new(port).read(),
        }
    }
}

fn write_port(port: u16, width: Width, value: u32) {
    // SAFETY: as in `read_port`.
    unsafe {
        match width {
            Width::Byte => Port::<u8>::new(port).write(value as u8),
            Width::Word => Port::<u16>::new(port).write(value as u16),
            Width::Double | Width::Quad => Port::<u32>::new(port).write(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_accesses_stay_inside_of_their_bar() {
        assert_eq!(port(0xc000, 32, 28, Width::Double), Some(0xc01c));
        assert_eq!(port(0xc000, 32, 29, Width::Double), None);
        assert_eq!(port(0xc000, 32, u64::MAX, Width::Byte), None);
        assert_eq!(port(0xc000, 32, 0, Width::Quad), None);
    }
}
