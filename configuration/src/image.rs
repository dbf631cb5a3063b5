//! Reading `image`: what a VM runs.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::model::{Image, LinuxImage, Module, MultibootImage};
use crate::position::Placed;
use crate::problem::{PathFault, Rule};
use crate::read::{Item, Notes, Section};

/// The most characters that a path may have.
const PATH_LIMIT: usize = 255;
/// The most bytes that a command line may have: Linux's limit on x86 without the final NUL.
const COMMAND_LINE_LIMIT: usize = 2047;

pub(crate) fn read(item: Item<'_>, notes: &mut Notes<'_>) -> Option<Image> {
    let mut section = Section::of(item, notes)?;
    let linux = section.take("linux");
    let multiboot = section.take("multiboot");
    let (thing, start) = (String::from(section.thing()), section.start());
    section.no_more_keys();
    match (linux, multiboot) {
        (Some(linux), None) => read_linux(linux, notes).map(Image::Linux),
        (None, Some(multiboot)) => read_multiboot(multiboot, notes).map(Image::Multiboot),
        (linux, multiboot) => {
            notes.problem(start, &thing, Rule::NotOneImage);
            linux.and_then(|linux| read_linux(linux, notes));
            multiboot.and_then(|multiboot| read_multiboot(multiboot, notes));
            None
        }
    }
}

fn read_linux(item: Item<'_>, notes: &mut Notes<'_>) -> Option<LinuxImage> {
    let mut section = Section::of(item, notes)?;
    let kernel = required_path(&mut section, "kernel", "kernel = \"guests/vmlinuz\"");
    let initrd = section.take("initrd").map(|item| item.read_as(path, section.notes()));
    let cmdline = command_line(&mut section);
    section.no_more_keys();
    // An initrd that is named must be readable: without it another system would start than the one that is meant.
    let initrd = match initrd {
        Some(None) => return None,
        Some(initrd) => initrd,
        None => None,
    };
    Some(LinuxImage { kernel: kernel?, initrd, cmdline })
}

fn read_multiboot(item: Item<'_>, notes: &mut Notes<'_>) -> Option<MultibootImage> {
    let mut section = Section::of(item, notes)?;
    let image = required_path(&mut section, "image", "image = \"guests/guest.elf\"");
    let items = section.array("modules").unwrap_or_default();
    let cmdline = command_line(&mut section);
    section.no_more_keys();
    let all = items.len();
    let modules: Vec<Module> =
        items.into_iter().enumerate().filter_map(|(index, item)| read_module(index, item, notes)).collect();
    (modules.len() == all).then_some(())?;
    Some(MultibootImage { image: image?, modules, cmdline })
}

fn read_module(index: usize, mut item: Item<'_>, notes: &mut Notes<'_>) -> Option<Module> {
    item.thing = format!("{}[{index}]", item.thing);
    let mut section = Section::of(item, notes)?;
    let path = required_path(&mut section, "path", "path = \"guests/module\"");
    let cmdline = command_line(&mut section);
    section.no_more_keys();
    Some(Module { path: path?, cmdline })
}

fn required_path(
    section: &mut Section<'_, '_, '_>,
    key: &'static str,
    example: &'static str,
) -> Option<Placed<String>> {
    let item = section.require(key, example)?;
    item.read_as(path, section.notes())
}

fn path(path: String) -> Result<String, Rule> {
    path_fault(&path).map_or(Ok(path), |fault| Err(Rule::BadPath(fault)))
}

fn path_fault(path: &str) -> Option<PathFault> {
    let forbidden = |character: char| {
        // Names are UCS-2 in UEFI's file protocol, and the rest is what FAT forbids.
        character.is_control() || u32::from(character) > 0xFFFF || "\\:*?\"<>|".contains(character)
    };
    if path.is_empty() {
        Some(PathFault::Empty)
    } else if path.chars().count() > PATH_LIMIT {
        Some(PathFault::TooLong)
    } else if let Some(character) = path.chars().find(|character| forbidden(*character)) {
        Some(PathFault::Character(character))
    } else if path.split('/').any(str::is_empty) {
        Some(PathFault::Slash)
    } else if path.split('/').any(|part| part == "." || part == "..") {
        Some(PathFault::Dots)
    } else {
        None
    }
}

fn command_line(section: &mut Section<'_, '_, '_>) -> String {
    let item = section.take("cmdline");
    let text = item.and_then(|item| item.read_as(checked_command_line, section.notes()));
    text.map(|text| text.value).unwrap_or_default()
}

fn checked_command_line(text: String) -> Result<String, Rule> {
    let fits = text.len() <= COMMAND_LINE_LIMIT && !text.chars().any(char::is_control);
    if fits { Ok(text) } else { Err(Rule::BadCommandLine) }
}
