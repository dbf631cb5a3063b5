//! Names for addresses of the kernel, from the symbol table of its own file.

use core::fmt;

use elf::ElfBytes;
use elf::abi::STT_FUNC;
use elf::endian::LittleEndian;
use spin::Once;

static FILE: Once<&'static [u8]> = Once::new();

/// Says where the kernel's file lies. Without it, addresses stay without names.
pub(crate) fn set_file(file: &'static [u8]) {
    FILE.call_once(|| file);
}

/// An address as `function+offset`, or as a number where no function is known there. It allocates nothing, so it works
/// whatever else is broken.
pub(crate) struct Symbol(pub(crate) u64);

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)?;
        match FILE.get().and_then(|file| find(file, self.0)) {
            // The alternate form leaves the hash out.
            Some((name, offset)) => write!(f, " {:#}+{offset:#x}", rustc_demangle::demangle(name)),
            None => Ok(()),
        }
    }
}

/// The function that holds `address`: its name in the file, and how far into it.
fn find(file: &[u8], address: u64) -> Option<(&str, u64)> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).ok()?;
    let (symbols, names) = elf.symbol_table().ok()??;
    let mut best: Option<(u32, u64)> = None;
    for symbol in symbols.iter().filter(|symbol| symbol.st_symtype() == STT_FUNC) {
        let Some(offset) = address.checked_sub(symbol.st_value) else { continue };
        if offset < symbol.st_size && best.is_none_or(|(_, nearest)| offset < nearest) {
            best = Some((symbol.st_name, offset));
        }
    }
    let (name, offset) = best?;
    Some((names.get(name as usize).ok()?, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn a_function_to_be_found() -> u64 {
        let mut here = 0u64;
        // SAFETY: it reads the instruction pointer.
        unsafe { core::arch::asm!("lea {}, [rip]", out(reg) here) };
        here
    }

    #[test]
    fn functions_of_this_very_file_are_found() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        // The process is position-independent: how far it was moved is where a known function is now, less where the
        // file says it is.
        let here = a_function_to_be_found();
        let elf = ElfBytes::<LittleEndian>::minimal_parse(&file).unwrap();
        let (symbols, names) = elf.symbol_table().unwrap().unwrap();
        let linked = symbols
            .iter()
            .find(|symbol| names.get(symbol.st_name as usize).is_ok_and(|name| name.contains("a_function_to_be_found")))
            .unwrap();
        let moved = (a_function_to_be_found as *const () as u64).wrapping_sub(linked.st_value);
        let (name, offset) = find(&file, here.wrapping_sub(moved)).unwrap();
        let name = format!("{:#}", rustc_demangle::demangle(name));
        assert!(name.ends_with("symbols::tests::a_function_to_be_found"), "{name}");
        assert!(offset < linked.st_size);
        assert_eq!(find(&file, 1), None);
    }

    #[test]
    fn damaged_files_have_no_names() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        for length in [0, 10, 64, 1000] {
            assert_eq!(find(&file[..length], 0x1000), None);
        }
        assert_eq!(Symbol(0x1234).to_string(), "0x0000000000001234");
    }
}
