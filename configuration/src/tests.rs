//! One snapshot for every rule, and the promise that no text makes the reader panic.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use insta::assert_snapshot;
use proptest::prelude::*;

use crate::{Function, FunctionAddress, Image, Key, Machine, OnReset, Override, Reading, Selector, parse, read};

/// A VM as every test begins with it; `more` are further keys.
fn vm(name: &str, cpu: u32, more: &str) -> String {
    format!(
        "[[vm]]\nname = \"{name}\"\ncpus = [{cpu}]\nmemory = \"64M\"\nimage.multiboot.image = \"guests/{name}.elf\"\n{more}\n"
    )
}

/// The problems of a text, one a line.
fn problems(text: &str) -> String {
    match parse(text) {
        Ok(_) => String::from("no problem"),
        Err(problems) => lines(&problems),
    }
}

fn lines(problems: &[crate::Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

const BOTH: &str = r#"
at_end = "reset"
[[vm]]
name = "linux"
cpus = [0, 2]
memory = "1G"
image = { linux = { kernel = "guests/vmlinuz", initrd = "guests/initrd", cmdline = "console=ttyS0" } }
devices = ["0000:01:00.0", "8086:10d3"]
allow = ["unsafe-interrupts"]
on_reset = "stop"
[[vm]]
name = "intruder"
cpus = [1]
memory = "64M"
image = { multiboot = { image = "guests/intruder.elf", modules = [{ path = "guests/initrd", cmdline = "x y" }] } }
debug_exit = true
devices = ["1234:11e8"]
restarts = 20
"#;

#[test]
fn everything_that_is_written_is_read() {
    let configuration = parse(BOTH).unwrap();
    assert_eq!(configuration.at_end, crate::AtEnd::Reset);
    let [linux, intruder] = configuration.vms.as_slice() else { panic!("two VMs") };
    assert_eq!(linux.name.value, "linux");
    assert_eq!(linux.cpus.hosts().iter().map(|cpu| cpu.value).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(linux.memory.value, 1 << 30);
    assert!(linux.allows(Override::UnsafeInterrupts) && !intruder.allows(Override::UnsafeInterrupts));
    assert_eq!((linux.on_reset, intruder.on_reset), (OnReset::Stop, OnReset::Restart));
    assert_eq!((linux.restarts, intruder.restarts), (None, Some(20)));
    assert!(!linux.debug_exit && intruder.debug_exit);
    assert_eq!(linux.devices[1].value, Selector::Identity { vendor: 0x8086, device: 0x10D3 });
    assert_eq!((linux.devices[1].position.line, linux.devices[1].position.column), (8, 28));
    let Image::Linux(image) = &linux.image else { panic!("a Linux image") };
    assert_eq!((image.kernel.as_str(), image.cmdline.as_str()), ("guests/vmlinuz", "console=ttyS0"));
    let Image::Multiboot(image) = &intruder.image else { panic!("a Multiboot image") };
    assert_eq!((image.modules[0].path.as_str(), image.modules[0].cmdline.as_str()), ("guests/initrd", "x y"));
    let files: Vec<&str> = configuration.files().into_iter().map(|file| file.as_str()).collect();
    assert_eq!(files, ["guests/vmlinuz", "guests/initrd", "guests/intruder.elf"]);
}

#[test]
fn an_empty_file_has_no_vm() {
    assert_snapshot!(problems(""), @r#"line 1, column 1: the configuration: there is no VM. Add a table `[[vm]]`."#);
}

#[test]
fn text_that_is_not_toml() {
    assert_snapshot!(problems("at_end = halt\n[[vm]\nname = \"a\nat_end = 1"), @r#"
    line 1, column 10: the configuration: this is not TOML: string values must be quoted, expected literal string. Write it as TOML 1.0 has it.
    line 2, column 6: the configuration: this is not TOML: unclosed array table, expected `]`. Write it as TOML 1.0 has it.
    line 4, column 1: the configuration: the key `at_end` stands here twice. Remove one.
    "#);
}

#[test]
fn keys_twice() {
    assert_snapshot!(problems(&vm("a", 0, "memory = \"32M\"")), @r#"line 6, column 1: the configuration: the key `memory` stands here twice. Remove one."#);
}

#[test]
fn unknown_keys_at_every_level() {
    let text = format!(
        "colour = 1\n{}",
        vm(
            "a",
            0,
            "cpu = 1\nimage.rom = 1\nimage.multiboot.kernel = \"x\"\nimage.multiboot.modules = [{ path = \"m\", args = \"\" }]"
        )
    );
    assert_snapshot!(problems(&text), @r#"
    line 1, column 1: the configuration, `colour`: no such key. Remove it or write one of `at_end`, `vm`.
    line 7, column 1: vm "a", `cpu`: no such key. Remove it or write one of `name`, `cpus`, `memory`, `image`, `debug_exit`, `devices`, `allow`, `on_reset`, `restarts`.
    line 8, column 7: vm "a", image, `rom`: no such key. Remove it or write one of `linux`, `multiboot`.
    line 9, column 17: vm "a", image, multiboot, `kernel`: no such key. Remove it or write one of `image`, `modules`, `cmdline`.
    line 10, column 42: vm "a", image, multiboot, modules[0], `args`: no such key. Remove it or write one of `path`, `cmdline`.
    "#);
}

#[test]
fn wrong_types_everywhere() {
    let text = "at_end = 1\nvm = [1, { name = 1, cpus = 1, memory = 512, image = 1.5, debug_exit = \"no\", devices = [1], \
                allow = true, on_reset = [], restarts = 2026-01-01 }, { cpus = [\"0\"], image.linux = { kernel = {} } }]";
    assert_snapshot!(problems(text), @r#"
    line 1, column 10: the configuration, at_end: this must be a string, not a whole number. Write a string.
    line 2, column 7: vm number 1: this must be a table, not a whole number. Write a table.
    line 2, column 19: vm number 2, name: this must be a string, not a whole number. Write a string.
    line 2, column 29: vm number 2, cpus: this must be an array, not a whole number. Write an array.
    line 2, column 41: vm number 2, memory: this must be a string, not a whole number. Write a string.
    line 2, column 54: vm number 2, image: this must be a table, not a number with a fraction. Write a table.
    line 2, column 72: vm number 2, debug_exit: this must be true or false, not a string. Write true or false.
    line 2, column 89: vm number 2, devices: this must be a string, not a whole number. Write a string.
    line 2, column 101: vm number 2, allow: this must be an array, not true or false. Write an array.
    line 2, column 118: vm number 2, on_reset: this must be a string, not an array. Write a string.
    line 2, column 133: vm number 2, restarts: this must be a whole number, not a date or time. Write a whole number.
    line 2, column 147: vm number 3, name: the key is missing. Add a line such as `name = "guest"`.
    line 2, column 147: vm number 3, memory: the key is missing. Add a line such as `memory = "512M"`.
    line 2, column 157: vm number 3, cpus: this must be a whole number, not a string. Write a whole number.
    line 2, column 188: vm number 3, image, linux, kernel: this must be a string, not a table. Write a string.
    "#);
}

#[test]
fn missing_keys() {
    assert_snapshot!(problems("[[vm]]\n[[vm]]\nname = \"b\"\nimage.linux = {}\n"), @r#"
    line 1, column 1: vm number 1, name: the key is missing. Add a line such as `name = "guest"`.
    line 1, column 1: vm number 1, cpus: the key is missing. Add a line such as `cpus = [0]`.
    line 1, column 1: vm number 1, memory: the key is missing. Add a line such as `memory = "512M"`.
    line 1, column 1: vm number 1, image: the key is missing. Add a line such as `image = { multiboot = { image = "guests/guest.elf" } }`.
    line 2, column 1: vm "b", cpus: the key is missing. Add a line such as `cpus = [0]`.
    line 2, column 1: vm "b", memory: the key is missing. Add a line such as `memory = "512M"`.
    line 4, column 15: vm "b", image, linux, kernel: the key is missing. Add a line such as `kernel = "guests/vmlinuz"`.
    "#);
}

#[test]
fn words_that_mean_nothing() {
    let text = format!("at_end = \"stop\"\n{}", vm("a", 0, "on_reset = \"halt\"\nallow = [\"everything\"]"));
    assert_snapshot!(problems(&text), @r#"
    line 1, column 10: the configuration, at_end: "stop" means nothing here. Write one of `halt`, `reset`, `power-off`.
    line 7, column 12: vm "a", on_reset: "halt" means nothing here. Write one of `restart`, `stop`.
    line 8, column 10: vm "a", allow: "everything" means nothing here. Write one of `unsafe-interrupts`, `device-tlb`.
    "#);
}

#[test]
fn words_twice() {
    assert_snapshot!(problems(&vm("a", 0, "allow = [\"unsafe-interrupts\", \"unsafe-interrupts\"]")), @r#"line 6, column 31: vm "a", allow: "unsafe-interrupts" stands here twice. Remove one."#);
}

#[test]
fn numbers_out_of_range() {
    let text =
        format!("{}restarts = -1\n{}", vm("a", 0, ""), vm("b", 1, "restarts = 4294967296").replace("[1]", "[-1]"));
    assert_snapshot!(problems(&text), @r#"
    line 7, column 12: vm "a", restarts: the number must be at least 0 and at most 4294967295. Write a number in this range.
    line 10, column 9: vm "b", cpus: the number must be at least 0 and at most 4294967295. Write a number in this range.
    line 13, column 12: vm "b", restarts: the number must be at least 0 and at most 4294967295. Write a number in this range.
    "#);
    let many = vm("a", 0, "").replace("[0]", &format!("{:?}", (0..255).collect::<Vec<_>>()));
    assert_snapshot!(problems(&many), @r#"line 3, column 8: vm "a", cpus, how many: the number must be at least 1 and at most 254. Write a number in this range."#);
}

#[test]
fn names_that_do_not_fit() {
    let text = ["", "two words", "sixteen-letters-", "ä"].map(|name| vm(name, 0, "")).concat();
    assert_snapshot!(problems(&text.replace("[0]", "[7]").replace("cpus = [7]\n", "")), @r#"
    line 1, column 1: vm number 1, cpus: the key is missing. Add a line such as `cpus = [0]`.
    line 2, column 8: vm number 1, name: "" cannot be a name: it must have 1 to 15 letters, digits, `-` or `_`. Choose such a name.
    line 6, column 1: vm number 2, cpus: the key is missing. Add a line such as `cpus = [0]`.
    line 7, column 8: vm number 2, name: "two words" cannot be a name: it must have 1 to 15 letters, digits, `-` or `_`. Choose such a name.
    line 11, column 1: vm number 3, cpus: the key is missing. Add a line such as `cpus = [0]`.
    line 12, column 8: vm number 3, name: "sixteen-letters-" cannot be a name: it must have 1 to 15 letters, digits, `-` or `_`. Choose such a name.
    line 16, column 1: vm number 4, cpus: the key is missing. Add a line such as `cpus = [0]`.
    line 17, column 8: vm number 4, name: "ä" cannot be a name: it must have 1 to 15 letters, digits, `-` or `_`. Choose such a name.
    "#);
}

#[test]
fn a_vm_without_cpus() {
    assert_snapshot!(problems(&vm("a", 0, "").replace("[0]", "[]")), @r#"line 3, column 8: vm "a", cpus: a VM needs at least one CPU. Name one, such as `[0]`."#);
}

#[test]
fn claims_that_overlap() {
    let text = [
        vm("a", 0, "devices = [\"0000:01:00.0\", \"8086:10d3\", \"0000:01:00.0\"]"),
        vm("b", 0, "devices = [\"8086:10d3\", \"0000:01:00.0\"]"),
        vm("a", 1, "").replace("[1]", "[1, 1]"),
        vm("d", 1, "memory = 1").replacen("memory = \"64M\"\n", "", 1),
    ];
    assert_snapshot!(problems(&text.concat()), @r#"
    line 6, column 41: vm "a", devices: device 0000:01:00.0 belongs to vm "a" already, and a device has one owner. Remove one of the two.
    line 9, column 9: vm "b", cpus: CPU 0 belongs to vm "a" already, and a pinned virtual CPU has its CPU for itself. Name another CPU, or let all VMs that are to run on it share it: `cpus = { count = 1, on = [0] }`.
    line 12, column 25: vm "b", devices: device 0000:01:00.0 belongs to vm "a" already, and a device has one owner. Remove one of the two.
    line 14, column 8: vm "a": an earlier VM is named "a" already. Rename one of the two.
    line 15, column 12: vm "a", cpus: CPU 1 belongs to vm "a" already, and a pinned virtual CPU has its CPU for itself. Name another CPU, or let all VMs that are to run on it share it: `cpus = { count = 1, on = [1] }`.
    line 21, column 9: vm "d", cpus: CPU 1 belongs to vm "a" already, and a pinned virtual CPU has its CPU for itself. Name another CPU, or let all VMs that are to run on it share it: `cpus = { count = 1, on = [1] }`.
    line 23, column 10: vm "d", memory: this must be a string, not a whole number. Write a string.
    "#);
}

#[test]
fn shared_cpus_are_read() {
    let text = [
        vm("a", 0, "").replace("[0]", "{ count = 3, on = [0, 1] }"),
        vm("b", 1, "").replace("[1]", "{ on = [1], count = 1 }"),
        vm("c", 2, ""),
    ];
    let vms = parse(&text.concat()).unwrap().vms;
    let shapes: Vec<_> = vms.iter().map(|vm| (vm.cpus.count(), vm.cpus.are_pinned(), vm.cpus.hosts().len())).collect();
    assert_eq!(shapes, [(3, false, 2), (1, false, 1), (1, true, 1)]);
}

#[test]
fn shared_cpus_that_cannot_be() {
    let text = [
        vm("a", 0, ""),
        vm("b", 1, "").replace("[1]", "{ count = 2, on = [0, 1, 1] }"),
        vm("c", 1, ""),
        vm("d", 1, "").replace("[1]", "{ count = 0, on = [] }"),
        vm("e", 1, "").replace("[1]", "{ on = 1, many = 3 }"),
    ];
    assert_snapshot!(problems(&text.concat()), @r#"
    line 9, column 27: vm "b", cpus: CPU 0 cannot be shared, it runs a pinned virtual CPU of vm "a". Name another CPU, or let all VMs that are to run on it share it: `cpus = { count = 1, on = [0] }`.
    line 9, column 33: vm "b", cpus: CPU 1 stands here twice. Remove one.
    line 15, column 9: vm "c", cpus: CPU 1 is shared by vm "b", and a pinned virtual CPU has its CPU for itself. Name another CPU, or let all VMs that are to run on it share it: `cpus = { count = 1, on = [1] }`.
    line 21, column 18: vm "d", cpus, count: the number must be at least 1 and at most 254. Write a number in this range.
    line 21, column 26: vm "d", cpus, on: a VM needs at least one CPU. Name one, such as `[0]`.
    line 27, column 8: vm "e", cpus, count: the key is missing. Add a line such as `cpus = { count = 2, on = [0, 1] }`.
    line 27, column 15: vm "e", cpus, on: this must be an array, not a whole number. Write an array.
    line 27, column 18: vm "e", cpus, `many`: no such key. Remove it or write one of `count`, `on`.
    "#);
}

#[test]
fn memory_that_is_no_size() {
    let text = ["", "512", "1T", "0M", "3M", "99999999999G"]
        .iter()
        .enumerate()
        .map(|(index, size)| vm(&format!("vm{index}"), index as u32, "").replace("64M", size))
        .collect::<String>();
    assert_snapshot!(problems(&text), @r#"
    line 4, column 10: vm "vm0", memory: "" is not an amount of memory. Write a number with K, M or G behind it, such as "512M".
    line 10, column 10: vm "vm1", memory: "512" is not an amount of memory. Write a number with K, M or G behind it, such as "512M".
    line 16, column 10: vm "vm2", memory: "1T" is not an amount of memory. Write a number with K, M or G behind it, such as "512M".
    line 22, column 10: vm "vm3", memory: 0 bytes cannot be a VM's memory: it must be a multiple of 2M, and not 0. Write "2M".
    line 28, column 10: vm "vm4", memory: 3M cannot be a VM's memory: it must be a multiple of 2M, and not 0. Write "4M".
    line 34, column 10: vm "vm5", memory: "99999999999G" is not an amount of memory. Write a number with K, M or G behind it, such as "512M".
    "#);
}

#[test]
fn not_exactly_one_image() {
    let text = format!(
        "{}{}",
        vm("a", 0, "image.linux.kernel = \"\""),
        vm("b", 1, "").replace(".multiboot.image = \"guests/b.elf\"", " = {}")
    );
    assert_snapshot!(problems(&text), @r#"
    line 5, column 1: vm "a", image: a VM runs exactly one image. Write either `image.linux` or `image.multiboot`.
    line 6, column 22: vm "a", image, linux, kernel: the path is empty. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 11, column 9: vm "b", image: a VM runs exactly one image. Write either `image.linux` or `image.multiboot`.
    "#);
}

#[test]
fn paths_that_name_no_file() {
    let text = ["", "/a", "a/", "a//b", "a/../b", "./a", "a\\\\b", "c:a", "\\u0007", "\\U0001F980", &"x".repeat(256)]
        .iter()
        .enumerate()
        .map(|(index, path)| {
            vm("v", index as u32, "").replace("\"v\"", &format!("\"v{index}\"")).replace("guests/v.elf", path)
        })
        .collect::<String>();
    assert_snapshot!(problems(&text), @r#"
    line 5, column 25: vm "v0", image, multiboot, image: the path is empty. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 11, column 25: vm "v1", image, multiboot, image: the path begins or ends with `/`, or has two in a row. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 17, column 25: vm "v2", image, multiboot, image: the path begins or ends with `/`, or has two in a row. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 23, column 25: vm "v3", image, multiboot, image: the path begins or ends with `/`, or has two in a row. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 29, column 25: vm "v4", image, multiboot, image: the path has a component `.` or `..`. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 35, column 25: vm "v5", image, multiboot, image: the path has a component `.` or `..`. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 41, column 25: vm "v6", image, multiboot, image: the path has the character '\\', which a name on a FAT volume cannot have. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 47, column 25: vm "v7", image, multiboot, image: the path has the character ':', which a name on a FAT volume cannot have. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 53, column 25: vm "v8", image, multiboot, image: the path has the character '\u{7}', which a name on a FAT volume cannot have. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 59, column 25: vm "v9", image, multiboot, image: the path has the character '🦀', which a name on a FAT volume cannot have. Write it from the root of the boot volume, such as "guests/vmlinuz".
    line 65, column 25: vm "v10", image, multiboot, image: the path has more than 255 characters. Write it from the root of the boot volume, such as "guests/vmlinuz".
    "#);
}

#[test]
fn command_lines_that_no_guest_can_have() {
    let long = format!("image.multiboot.cmdline = \"{}\"", "x".repeat(2048));
    let text = format!("{}{}", vm("a", 0, "image.multiboot.cmdline = \"a\\nb\""), vm("b", 1, &long));
    assert_snapshot!(problems(&text), @r#"
    line 6, column 27: vm "a", image, multiboot, cmdline: a command line has at most 2047 bytes, and no line break or other control character. Shorten it or remove the character.
    line 12, column 27: vm "b", image, multiboot, cmdline: a command line has at most 2047 bytes, and no line break or other control character. Shorten it or remove the character.
    "#);
    let longest = format!("image.multiboot.cmdline = \"{}\"", "x".repeat(2047));
    assert!(parse(&vm("a", 0, &longest)).is_ok());
}

#[test]
fn texts_that_name_no_device() {
    assert_snapshot!(problems(&vm("a", 0, "devices = [\"01:00.0\", \"0000:01:20.0\", \"e1000e\"]")), @r#"
    line 6, column 12: vm "a", devices: "01:00.0" names no PCI function. Write segment:bus:device.function or vendor:device in hexadecimal, such as "0000:01:00.0" or "8086:10d3".
    line 6, column 23: vm "a", devices: "0000:01:20.0" names no PCI function. Write segment:bus:device.function or vendor:device in hexadecimal, such as "0000:01:00.0" or "8086:10d3".
    line 6, column 39: vm "a", devices: "e1000e" names no PCI function. Write segment:bus:device.function or vendor:device in hexadecimal, such as "0000:01:00.0" or "8086:10d3".
    "#);
}

#[test]
fn a_limit_on_restarts_that_never_happen() {
    assert_snapshot!(problems(&vm("a", 0, "on_reset = \"stop\"\nrestarts = 3")), @r#"line 7, column 12: vm "a", restarts: a VM with on_reset = "stop" is never restarted. Remove `restarts` or write on_reset = "restart"."#);
}

#[test]
fn problems_come_in_the_order_of_the_text() {
    let text = format!("{}{}", vm("a", 0, "zebra = 1\ndebug_exit = 1"), vm("a", 0, "").replace("64M", "1M"));
    assert_snapshot!(problems(&text), @r#"
    line 6, column 1: vm "a", `zebra`: no such key. Remove it or write one of `name`, `cpus`, `memory`, `image`, `debug_exit`, `devices`, `allow`, `on_reset`, `restarts`.
    line 7, column 14: vm "a", debug_exit: this must be true or false, not a whole number. Write true or false.
    line 9, column 8: vm "a": an earlier VM is named "a" already. Rename one of the two.
    line 10, column 9: vm "a", cpus: CPU 0 belongs to vm "a" already, and a pinned virtual CPU has its CPU for itself. Name another CPU, or let all VMs that are to run on it share it: `cpus = { count = 1, on = [0] }`.
    line 11, column 10: vm "a", memory: 1M cannot be a VM's memory: it must be a multiple of 2M, and not 0. Write "2M".
    "#);
}

fn function(bus: u8, vendor: u16, device: u16) -> Function {
    Function { address: FunctionAddress { segment: 0, bus, device: 0, function: 0 }, vendor, device }
}

fn check(reading: &Reading, machine: &Machine<'_>) -> String {
    lines(&reading.check(machine))
}

#[test]
fn a_machine_that_has_everything_fits() {
    let functions = [function(1, 0x8086, 0x5845), function(2, 0x8086, 0x10D3), function(3, 0x1234, 0x11E8)];
    let machine = Machine {
        cpus: Some(3),
        free_memory: Some((1 << 30) + (64 << 20)),
        files: Some(&["guests/vmlinuz", "guests/initrd", "guests/intruder.elf"]),
        functions: Some(&functions),
    };
    let configuration = read(BOTH);
    assert_eq!(check(&configuration, &machine), "");
    let (claims, _) = configuration.claims(&functions);
    let buses: Vec<_> = claims.iter().map(|claim| (claim.vm, claim.selector, claim.address.bus)).collect();
    assert_eq!(buses, [(0, 0, 1), (0, 1, 2), (1, 0, 3)]);
}

#[test]
fn a_machine_that_lacks_everything() {
    let machine =
        Machine { cpus: Some(1), free_memory: Some(100 << 20), files: Some(&["guests/initrd"]), functions: Some(&[]) };
    assert_snapshot!(check(&read(BOTH), &machine), @r#"
    line 5, column 12: vm "linux", cpus: there is no CPU 2: this machine has CPU 0 only. Name one that exists.
    line 6, column 10: vm "linux", memory: 1G do not fit: this machine has 100M left, with what the hypervisor and the VMs before need. Give this VM or an earlier one less; 100M is the most.
    line 7, column 30: vm "linux", image: the boot volume has no file "guests/vmlinuz". Copy the file to the volume or correct the path.
    line 8, column 12: vm "linux", devices: this machine has no device 0000:01:00.0. Correct it, or plug the device in; the log of the boot lists every device.
    line 8, column 28: vm "linux", devices: this machine has no device 8086:10d3. Correct it, or plug the device in; the log of the boot lists every device.
    line 13, column 9: vm "intruder", cpus: there is no CPU 1: this machine has CPU 0 only. Name one that exists.
    line 15, column 33: vm "intruder", image: the boot volume has no file "guests/intruder.elf". Copy the file to the volume or correct the path.
    line 17, column 12: vm "intruder", devices: this machine has no device 1234:11e8. Correct it, or plug the device in; the log of the boot lists every device.
    "#);
    assert_eq!(check(&read(BOTH), &Machine::default()), "");
}

/// One report: what is wrong with the text, what the machine lacks, and what it refuses, in the order of the file.
#[test]
fn a_broken_text_is_held_against_the_machine_too() {
    let text = format!(
        "{}{}",
        vm("a", 0, "colour = 1\ndevices = [\"dead:beef\", \"1234:11e8\"]"),
        vm("b", 9, "").replace("memory = \"64M\"\n", "")
    );
    let reading = read(&text);
    assert!(reading.is_toml() && reading.configuration().is_none());
    assert_eq!(reading.files().iter().map(|file| file.as_str()).collect::<Vec<_>>(), ["guests/a.elf", "guests/b.elf"]);
    let functions = [function(1, 0x1234, 0x11E8)];
    let machine =
        Machine { cpus: Some(1), free_memory: Some(0), files: Some(&["guests/a.elf"]), functions: Some(&functions) };
    let mut found = reading.check(&machine);
    found.push(reading.refusal(0, Key::Device(1), "0000:01:00.0 cannot be assigned, for it is broken".into()));
    found.push(reading.refusal(1, Key::Memory, "it is not there".into()));
    assert_snapshot!(lines(&reading.finish(found).unwrap_err()), @r#"
    line 4, column 10: vm "a", memory: 64M do not fit: this machine has 0 bytes left, with what the hypervisor and the VMs before need. Give this VM or an earlier one less; 0 bytes is the most.
    line 6, column 1: vm "a", `colour`: no such key. Remove it or write one of `name`, `cpus`, `memory`, `image`, `debug_exit`, `devices`, `allow`, `on_reset`, `restarts`.
    line 7, column 12: vm "a", devices: this machine has no device dead:beef. Correct it, or plug the device in; the log of the boot lists every device.
    line 7, column 25: vm "a", devices: 0000:01:00.0 cannot be assigned, for it is broken.
    line 8, column 1: vm "b", memory: the key is missing. Add a line such as `memory = "512M"`.
    line 8, column 1: vm "b", memory: it is not there.
    line 10, column 9: vm "b", cpus: there is no CPU 9: this machine has CPU 0 only. Name one that exists.
    line 11, column 25: vm "b", image: the boot volume has no file "guests/b.elf". Copy the file to the volume or correct the path.
    "#);
}

#[test]
fn text_that_is_not_toml_is_known_as_such() {
    assert!(!read("at_end = halt").is_toml());
    assert!(read("colour = 1").is_toml());
}

#[test]
fn a_kind_takes_the_first_that_no_place_has() {
    let text = format!(
        "{}{}",
        vm("a", 0, "devices = [\"1234:11e8\", \"1234:11e8\"]"),
        vm("b", 1, "devices = [\"1234:11e8\", \"0000:01:00.0\"]")
    );
    let configuration = read(&text);
    let all: Vec<Function> = (1..=4).map(|bus| function(bus, 0x1234, 0x11E8)).collect();
    let (claims, problems) = configuration.claims(&all);
    assert_eq!(claims.iter().map(|claim| claim.address.bus).collect::<Vec<_>>(), [2, 3, 4, 1]);
    assert!(problems.is_empty());
    let (_, problems) = configuration.claims(&all[..3]);
    assert_snapshot!(lines(&problems), @r#"line 12, column 12: vm "b", devices: this machine has 3 device(s) 1234:11e8, and all belong to a VM already. Remove it from one VM, or plug another such device in."#);
}

#[test]
fn memory_is_counted_over_all_vms() {
    let text = [vm("a", 0, ""), vm("b", 1, ""), vm("c", 2, "").replace("64M", "32M")].concat();
    let configuration = read(&text);
    let with = |free| check(&configuration, &Machine { free_memory: Some(free), ..Machine::default() });
    assert_eq!(with(160 << 20), "");
    assert_snapshot!(with((160 << 20) - 1), @r#"line 16, column 10: vm "c", memory: 32M do not fit: this machine has 30M left, with what the hypervisor and the VMs before need. Give this VM or an earlier one less; 30M is the most."#);
}

/// Pieces of configurations, so that random texts get past the first line.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(String::from("[[vm]]\n")),
        Just(String::from("[vm]\n")),
        Just(String::from("at_end = \"halt\"\n")),
        ("(name|cpus|cpus.count|cpus.on|memory|image|image.linux|image.multiboot|devices|allow|on_reset|restarts|debug_exit|cmdline|modules|kernel)", "( = |\\.|=)", "(1|-1|\"a\"|\"2M\"|\\[\\]|\\[0\\]|\\{\\}|\\{ linux = \\{ kernel = \"k\" \\} \\}|true|\"\"\"|\")")
            .prop_map(|(key, operator, value)| format!("{key}{operator}{value}\n")),
        ".{0,12}",
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in prop_oneof![pieces(), ".{0,200}", any::<String>()]) {
        let reading = read(&text);
        let functions = [function(1, 0x1234, 0x11E8)];
        let machine = Machine { cpus: Some(0), free_memory: Some(0), files: Some(&[]), functions: Some(&functions) };
        let found = reading.check(&machine);
        match reading.finish(Vec::new()) {
            // No VM fits into a machine that has nothing.
            Ok(_) => prop_assert!(!found.is_empty()),
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    prop_assert!(problem.line >= 1 && problem.column >= 1);
                    prop_assert!(!problem.to_string().is_empty());
                }
            }
        }
    }
}
