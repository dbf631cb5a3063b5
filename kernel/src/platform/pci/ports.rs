//! Configuration mechanism #1: the first 256 bytes of each function's configuration space through two ports, for
//! machines without the enhanced mechanism (PCI Local Bus Specification section 3.2.2.3.2).

use alloc::vec::Vec;

use iommu::address::PciAddress;
use spin::Mutex;
use x86_64::instructions::port::Port;

use super::access::ConfigurationAccess;
use crate::cpu::interrupts;

/// Where the address of an access is written.
const ADDRESS: u16 = 0xcf8;
/// Where the four bytes at that address then are.
const DATA: u16 = 0xcfc;
/// The bit of the address that makes the data ports lead to configuration space.
const ENABLE: u32 = 1 << 31;

/// Held from the address to the data: the two belong together. Not by a guest's accesses, which never get here.
static PAIR: Mutex<()> = Mutex::new(());

/// The ports of a host bridge. They reach segment 0.
#[derive(Clone, Copy, Debug)]
pub struct Ports(());

impl Ports {
    /// The ports, if a host bridge answers there: it remembers the address.
    pub(crate) fn find() -> Option<Self> {
        let mut port = Port::<u32>::new(ADDRESS);
        interrupts::without(|| {
            let _pair = PAIR.lock();
            // SAFETY: on every PC the port is this one or nothing; the address selects and changes nothing.
            unsafe {
                port.write(ENABLE);
                port.read() == ENABLE
            }
        })
        .then_some(Self(()))
    }
}

/// The address of a function's four bytes that hold `offset`, and the data port of that byte; `None` where this
/// mechanism does not reach or the access is not aligned.
fn place(function: PciAddress, offset: u16, size: u16) -> Option<(u32, u16)> {
    if function.segment != 0 || offset >= 256 || !offset.is_multiple_of(size) {
        return None;
    }
    let (bus, devfn) = (u32::from(function.source.bus()), u32::from(function.source.devfn()));
    Some((ENABLE | bus << 16 | devfn << 8 | u32::from(offset & 0xfc), DATA + (offset & 3)))
}

macro_rules! accesses {
    ($read:ident, $write:ident, $number:ty) => {
        fn $read(&self, function: PciAddress, offset: u16) -> $number {
            let Some((address, data)) = place(function, offset, size_of::<$number>() as u16) else { return !0 };
            interrupts::without(|| {
                let _pair = PAIR.lock();
                // SAFETY: a host bridge answers there; reading configuration space is this trait's purpose.
                unsafe {
                    Port::<u32>::new(ADDRESS).write(address);
                    Port::<$number>::new(data).read()
                }
            })
        }

        fn $write(&self, function: PciAddress, offset: u16, value: $number) {
            let Some((address, data)) = place(function, offset, size_of::<$number>() as u16) else { return };
            interrupts::without(|| {
                let _pair = PAIR.lock();
                // SAFETY: as above; who writes owns the function.
                unsafe {
                    Port::<u32>::new(ADDRESS).write(address);
                    Port::<$number>::new(data).write(value);
                }
            });
        }
    };
}

impl ConfigurationAccess for Ports {
    accesses!(read_u8, write_u8, u8);
    accesses!(read_u16, write_u16, u16);
    accesses!(read_u32, write_u32, u32);

    fn segments(&self) -> Vec<(u16, u8, u8)> {
        alloc::vec![(0, 0, 0xff)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_has_its_address_and_its_port() {
        let function = PciAddress::new(0, 0x12, 0x1f, 5);
        assert_eq!(place(function, 0x3d, 1), Some((0x8012_fd3c, 0xcfd)));
        assert_eq!(place(function, 0xfe, 2), Some((0x8012_fdfc, 0xcfe)));
        assert_eq!(place(function, 0, 4), Some((0x8012_fd00, 0xcfc)));
    }

    #[test]
    fn what_the_ports_do_not_reach_is_left_alone() {
        assert_eq!(place(PciAddress::new(1, 0, 0, 0), 0, 1), None);
        let function = PciAddress::new(0, 0, 0, 0);
        for (offset, size) in [(0x100, 1), (0xfff, 1), (1, 2), (3, 2), (2, 4)] {
            assert_eq!(place(function, offset, size), None, "{offset:#x}");
        }
    }
}
