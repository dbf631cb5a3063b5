use super::*;
use crate::vcpu::testing::{Access, FakeEngine, FakeMachine, body};

/// Where no RAM is.
const DEVICE: u64 = 0xfe00_0000;

/// A virtual CPU whose RBX is the device's address, with these instruction bytes to carry out.
fn run(
    code: &[u8],
    prepare: impl FnOnce(&mut FakeEngine),
) -> (Box<Body<FakeEngine>>, Vec<Access>, Result<(), Trouble>) {
    let machine = FakeMachine::new(0x4000);
    machine.put(0x1000, code);
    let mut body = body();
    body.engine.registers_mut().set(Register::Rbx, DEVICE);
    prepare(&mut body.engine);
    let result = body.emulate(GuestPhysical::new(DEVICE), &machine);
    (body, machine.taken(), result)
}

fn value(body: &Body<FakeEngine>, register: Register) -> u64 {
    body.engine.registers().get(register)
}

#[test]
fn moves_of_every_size() {
    // mov eax, [ebx]
    let (body, accesses, _) = run(&[0x8b, 0x03], |_| ());
    assert_eq!((value(&body, Register::Rax), accesses), (0x4433_2211, vec![Access::Read(DEVICE, 4)]));
    assert_eq!(body.engine.instruction_pointer(), 0x1002);
    // mov [ebx+16], ecx
    let (_, accesses, _) = run(&[0x89, 0x4b, 0x10], |e| e.registers_mut().set(Register::Rcx, 0xaabb_ccdd));
    assert_eq!(accesses, [Access::Write(DEVICE + 16, 4, 0xaabb_ccdd)]);
    // mov word [ebx], 0x1234
    let (_, accesses, _) = run(&[0x66, 0xc7, 0x03, 0x34, 0x12], |_| ());
    assert_eq!(accesses, [Access::Write(DEVICE, 2, 0x1234)]);
    // mov byte [ebx], ch
    let (_, accesses, _) = run(&[0x88, 0x2b], |e| e.registers_mut().set(Register::Rcx, 0x7f00));
    assert_eq!(accesses, [Access::Write(DEVICE, 1, 0x7f)]);
    // movzx eax, word [ebx]; movsx eax, byte [ebx+1] (0x88 from the answer needs a shift: the fake answers the same)
    let (body, accesses, _) = run(&[0x0f, 0xb7, 0x03], |_| ());
    assert_eq!((value(&body, Register::Rax), accesses), (0x2211, vec![Access::Read(DEVICE, 2)]));
    let (body, ..) = run(&[0x0f, 0xbe, 0x03], |e| e.registers_mut().set(Register::Rax, u64::MAX));
    assert_eq!(value(&body, Register::Rax), 0x11);
}

#[test]
fn arithmetic_reads_and_writes_once_each() {
    // or dword [ebx], 0x80
    let (_, accesses, _) = run(&[0x81, 0x0b, 0x80, 0, 0, 0], |_| ());
    assert_eq!(accesses, [Access::Read(DEVICE, 4), Access::Write(DEVICE, 4, 0x4433_2291)]);
    // add ecx, [ebx]
    let (body, accesses, _) = run(&[0x03, 0x0b], |e| e.registers_mut().set(Register::Rcx, 1));
    assert_eq!((value(&body, Register::Rcx), accesses.len()), (0x4433_2212, 1));
    // cmp dword [ebx], 0x44332211
    let (body, accesses, _) = run(&[0x81, 0x3b, 0x11, 0x22, 0x33, 0x44], |_| ());
    assert!(body.engine.flags() & ZF != 0 && accesses.len() == 1);
    // test byte [ebx], 2
    let (body, ..) = run(&[0xf6, 0x03, 0x02], |_| ());
    assert!(body.engine.flags() & ZF != 0);
    // not dword [ebx]
    let (_, accesses, _) = run(&[0xf7, 0x13], |_| ());
    assert_eq!(accesses[1], Access::Write(DEVICE, 4, 0xbbcc_ddee));
}

#[test]
fn exchanges() {
    // xchg [ebx], eax
    let (body, accesses, _) = run(&[0x87, 0x03], |e| e.registers_mut().set(Register::Rax, 7));
    assert_eq!(value(&body, Register::Rax), 0x4433_2211);
    assert_eq!(accesses, [Access::Read(DEVICE, 4), Access::Write(DEVICE, 4, 7)]);
    // lock cmpxchg [ebx], ecx: equal, then different
    let equal = |e: &mut FakeEngine| {
        e.registers_mut().set(Register::Rax, 0x4433_2211);
        e.registers_mut().set(Register::Rcx, 9);
    };
    let (body, accesses, _) = run(&[0xf0, 0x0f, 0xb1, 0x0b], equal);
    assert!(body.engine.flags() & ZF != 0);
    assert_eq!(accesses[1], Access::Write(DEVICE, 4, 9));
    let (body, accesses, _) = run(&[0xf0, 0x0f, 0xb1, 0x0b], |_| ());
    assert!(body.engine.flags() & ZF == 0);
    assert_eq!((value(&body, Register::Rax), accesses[1]), (0x4433_2211, Access::Write(DEVICE, 4, 0x4433_2211)));
}

#[test]
fn bit_tests_reach_beyond_their_operand() {
    // bts [ebx], ecx with bit 68: the dword 8 bytes on, bit 4
    let (body, accesses, _) = run(&[0x0f, 0xab, 0x0b], |e| e.registers_mut().set(Register::Rcx, 68));
    assert_eq!(accesses, [Access::Read(DEVICE + 8, 4), Access::Write(DEVICE + 8, 4, 0x4433_2211)]);
    assert!(body.engine.flags() & CF != 0);
    // btr [ebx], ecx with bit -1: the dword before, bit 31
    let (_, accesses, _) = run(&[0x0f, 0xb3, 0x0b], |e| e.registers_mut().set(Register::Rcx, 0xffff_ffff));
    assert_eq!(accesses[0], Access::Read(DEVICE - 4, 4));
}

#[test]
fn repeated_strings_stop_for_interrupts_and_go_on() {
    let machine = FakeMachine::new(0x4000);
    machine.put(0x1000, &[0xf3, 0xa5]); // rep movsd
    machine.put(0x2000, &[0xab; 512]);
    let mut body = body();
    body.engine.registers_mut().set(Register::Rsi, 0x2000);
    body.engine.registers_mut().set(Register::Rdi, DEVICE);
    body.engine.registers_mut().set(Register::Rcx, 100);
    body.emulate(GuestPhysical::new(DEVICE), &machine).unwrap();
    assert_eq!((value(&body, Register::Rcx), body.engine.instruction_pointer()), (36, 0x1000));
    body.emulate(GuestPhysical::new(DEVICE), &machine).unwrap();
    assert_eq!((value(&body, Register::Rcx), body.engine.instruction_pointer()), (0, 0x1002));
    let accesses = machine.taken();
    assert_eq!(accesses.len(), 100);
    assert_eq!(accesses[99], Access::Write(DEVICE + 396, 4, 0xabab_abab));
    assert_eq!(value(&body, Register::Rdi), DEVICE + 400);
}

#[test]
fn device_memory_is_copied_down_with_the_direction_flag() {
    let machine = FakeMachine::new(0x4000);
    machine.put(0x1000, &[0xa4]); // movsb
    let mut body = body();
    body.engine.set_flags(bits::FLAGS_DF);
    body.engine.registers_mut().set(Register::Rsi, DEVICE);
    body.engine.registers_mut().set(Register::Rdi, 0x3000);
    body.emulate(GuestPhysical::new(DEVICE), &machine).unwrap();
    assert_eq!(machine.get(0x3000), [0x11]);
    assert_eq!((value(&body, Register::Rsi), value(&body, Register::Rdi)), (DEVICE - 1, 0x2fff));
}

#[test]
fn what_cannot_be_emulated_is_named() {
    // fld dword [ebx]
    let (_, accesses, result) = run(&[0xd9, 0x03], |_| ());
    let Err(Trouble::Crash(crate::vcpu::CrashReason::Undecodable { instruction, bytes, address })) = result else {
        panic!("{result:?}");
    };
    assert_eq!((instruction, &bytes[..2], address.as_u64()), (0x1000, &[0xd9, 0x03][..], DEVICE));
    assert!(accesses.is_empty());
}
