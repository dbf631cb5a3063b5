use super::*;
use crate::memory::GuestPhysical;
use crate::vapic::Trigger;
use crate::vcpu::engine::{NestedFault, PortAccess};
use crate::vcpu::state::{Register, Segment, SegmentName};
use crate::vcpu::testing::{Access, FakeEngine, FakeMachine, body, body_of};

const INTERRUPT: u8 = 0x41;

fn machine(code: &[u8]) -> FakeMachine {
    let machine = FakeMachine::new(0x4000);
    machine.put(0x1000, code);
    machine
}

/// Software-enables the local APIC and turns interrupts on.
fn listen(body: &mut Body<FakeEngine>) {
    let bus = Arc::clone(&body.bus);
    assert_eq!(body.apic.write(0xf0, 0x1ff, 0, &bus.endpoints()[0]), Effect::Nothing);
    body.engine.set_flags(bits::FLAGS_ONE | bits::FLAGS_IF);
}

fn after(body: &mut Body<FakeEngine>, machine: &FakeMachine, exits: &[Exit]) -> Stop {
    body.engine.exits = exits.iter().copied().collect();
    body.run(machine)
}

#[test]
fn cpuid_answers_and_goes_on() {
    let (mut body, machine) = (body(), machine(&[0x0f, 0xa2]));
    body.engine.registers_mut().set(Register::Rax, 0x4000_0000);
    assert_eq!(after(&mut body, &machine, &[Exit::Cpuid]), Stop::Ended);
    assert_eq!(body.engine.registers().get(Register::Rbx), u64::from(u32::from_le_bytes(*b"Post")));
    assert_eq!(body.engine.instruction_pointer(), 0x1002);
    assert_eq!(*machine.ended.lock().unwrap(), Some(End::Reset(ResetCause::TripleFault)));
    assert_eq!((body.exits()[Exit::Cpuid.kind()], body.exits()[Exit::Shutdown.kind()]), (1, 1));
}

#[test]
fn a_prefixed_instruction_is_skipped_whole() {
    let (mut body, machine) = (body(), machine(&[0x66, 0xf2, 0x0f, 0xa2]));
    after(&mut body, &machine, &[Exit::Cpuid]);
    assert_eq!(body.engine.instruction_pointer(), 0x1004);
}

#[test]
fn unknown_registers_fault() {
    let (mut body, machine) = (body(), machine(&[0x0f, 0x32]));
    body.engine.registers_mut().set(Register::Rcx, 0x1234_5678);
    after(&mut body, &machine, &[Exit::ReadMsr]);
    assert_eq!(body.engine.delivered, [Event::Exception(Exception::GENERAL_PROTECTION)]);
    assert_eq!(body.engine.instruction_pointer(), 0x1000);
}

#[test]
fn a_posted_interrupt_is_delivered_once() {
    let (mut body, machine) = (body(), machine(&[]));
    listen(&mut body);
    body.bus.endpoints()[0].post(INTERRUPT, Trigger::Edge);
    after(&mut body, &machine, &[Exit::HostEvent, Exit::HostEvent]);
    assert_eq!(body.engine.delivered, [Event::Interrupt(INTERRUPT)]);
}

#[test]
fn an_interrupt_waits_for_its_flag_and_the_window_tells() {
    let (mut body, machine) = (body(), machine(&[]));
    listen(&mut body);
    body.engine.set_flags(bits::FLAGS_ONE);
    body.bus.endpoints()[0].post(INTERRUPT, Trigger::Edge);
    after(&mut body, &machine, &[Exit::HostEvent]);
    assert_eq!((body.engine.delivered.as_slice(), body.engine.window), (&[][..], Some(INTERRUPT)));
    body.engine.set_flags(bits::FLAGS_ONE | bits::FLAGS_IF);
    after(&mut body, &machine, &[Exit::InterruptWindow, Exit::HostEvent]);
    assert_eq!((body.engine.delivered.as_slice(), body.engine.window), (&[Event::Interrupt(INTERRUPT)][..], None));
}

#[test]
fn an_interrupt_waits_for_the_shadow_to_end() {
    let (mut body, machine) = (body(), machine(&[]));
    listen(&mut body);
    body.engine.shadow = true;
    body.bus.endpoints()[0].post(INTERRUPT, Trigger::Edge);
    after(&mut body, &machine, &[]);
    assert!(body.engine.delivered.is_empty());
}

#[test]
fn a_high_cr8_holds_back_and_does_not_spin() {
    let (mut body, machine) = (body(), machine(&[]));
    listen(&mut body);
    body.engine.set_system(SystemRegister::Cr8, 0x4);
    body.bus.endpoints()[0].post(INTERRUPT, Trigger::Edge);
    after(&mut body, &machine, &[]);
    assert!(body.engine.delivered.is_empty());
    assert_eq!(body.engine.window, Some(INTERRUPT), "the window's priority is compared with CR8");
    body.engine.set_system(SystemRegister::Cr8, 0x3);
    after(&mut body, &machine, &[Exit::InterruptWindow]);
    assert_eq!(body.engine.delivered, [Event::Interrupt(INTERRUPT)]);
    body.bus.endpoints()[0].post(INTERRUPT, Trigger::Edge);
    after(&mut body, &machine, &[]);
    assert_eq!(body.engine.window, None, "its own class is in service: EOI comes first, without a window");
}

#[test]
fn halt_stops_until_an_interrupt_comes() {
    let (mut body, machine) = (body(), machine(&[0xf4]));
    listen(&mut body);
    assert_eq!(after(&mut body, &machine, &[Exit::Halt]), Stop::Halted);
    assert!(!body.is_ready());
    assert_eq!(body.run(&machine), Stop::Halted);
    body.bus.endpoints()[0].post(INTERRUPT, Trigger::Edge);
    assert!(body.is_ready());
    assert_eq!(body.run(&machine), Stop::Ended);
    assert_eq!(body.engine.delivered, [Event::Interrupt(INTERRUPT)]);
    assert_eq!(body.engine.instruction_pointer(), 0x1001);
}

#[test]
fn halted_with_interrupts_off_for_good_ends_the_machine() {
    let (mut body, machine) = (body(), machine(&[0xf4]));
    listen(&mut body);
    body.engine.set_flags(bits::FLAGS_ONE);
    body.bus.endpoints()[0].post(INTERRUPT, Trigger::Edge);
    assert_eq!(after(&mut body, &machine, &[Exit::Halt]), Stop::Ended);
    assert_eq!(*machine.ended.lock().unwrap(), Some(End::Crash(CrashReason::HaltedForGood)));
}

#[test]
fn halted_with_interrupts_off_sleeps_on_while_another_runs() {
    let (mut body, machine) = (body_of(2), machine(&[0xf4]));
    listen(&mut body);
    body.engine.set_flags(bits::FLAGS_ONE);
    body.bus.endpoints()[0].post(INTERRUPT, Trigger::Edge);
    assert_eq!(after(&mut body, &machine, &[Exit::Halt]), Stop::Halted);
    body.bus.endpoints()[0].request(Requests::NON_MASKABLE);
    assert_eq!(body.run(&machine), Stop::Ended);
    assert_eq!(body.engine.delivered, [Event::NonMaskable]);
}

#[test]
fn a_second_nmi_waits_for_the_first_ones_iret() {
    let (mut body, machine) = (body(), machine(&[]));
    let nmi = Requests::NON_MASKABLE;
    body.bus.endpoints()[0].request(nmi);
    after(&mut body, &machine, &[]);
    body.bus.endpoints()[0].request(nmi);
    after(&mut body, &machine, &[]);
    assert_eq!(body.engine.delivered, [Event::NonMaskable]);
    // At the IRET it still waits: the IRET is stepped over first, and the guest does not see that.
    after(&mut body, &machine, &[Exit::InterruptReturn, Exit::Interrupt]);
    assert_eq!(body.engine.delivered, [Event::NonMaskable]);
    assert_ne!(body.engine.flags() & bits::FLAGS_TF, 0);
    body.engine.set_flags(bits::FLAGS_ONE);
    body.engine.set_system(SystemRegister::Dr6, 0xffff_4ff0);
    after(&mut body, &machine, &[Exit::Exception(Exception::DEBUG), Exit::HostEvent]);
    assert_eq!(body.engine.delivered, [Event::NonMaskable; 2]);
    assert_eq!(body.engine.system(SystemRegister::Dr6), 0xffff_0ff0);
}

#[test]
fn a_fault_of_the_stepped_iret_leaves_no_trap_flag() {
    for (own, interrupts) in [(0, 0), (bits::FLAGS_TF, 0), (0, bits::FLAGS_IF)] {
        let (mut body, machine) = (body(), machine(&[]));
        listen(&mut body);
        body.engine.set_flags(bits::FLAGS_ONE | own);
        body.bus.endpoints()[0].request(Requests::NON_MASKABLE);
        after(&mut body, &machine, &[]);
        body.bus.endpoints()[0].request(Requests::NON_MASKABLE);
        body.bus.endpoints()[0].post(INTERRUPT, Trigger::Edge);
        body.engine.delivered.clear();
        after(&mut body, &machine, &[Exit::InterruptReturn]);
        assert!(body.engine.watches_exceptions);
        // The handler may have switched interrupts on: one that came now would save the flag.
        body.engine.set_flags(bits::FLAGS_ONE | bits::FLAGS_TF | interrupts);
        after(&mut body, &machine, &[Exit::Interrupt]);
        assert_eq!(body.engine.delivered, []);
        let fault = Exception::GENERAL_PROTECTION;
        after(&mut body, &machine, &[Exit::Exception(fault)]);
        assert_eq!(body.engine.delivered, [Event::Exception(fault)]);
        assert_eq!(body.engine.flags() & bits::FLAGS_TF, own);
        assert!(!body.engine.watches_exceptions);
        after(&mut body, &machine, &[Exit::Interrupt]);
        assert_eq!(body.engine.delivered.get(1), Some(&Event::NonMaskable), "the handler is over");
    }
}

#[test]
fn an_nmi_behind_the_iret_comes_without_a_step() {
    let (mut body, machine) = (body(), machine(&[]));
    body.bus.endpoints()[0].request(Requests::NON_MASKABLE);
    after(&mut body, &machine, &[Exit::InterruptReturn]);
    body.engine.set_instruction_pointer(0x2000);
    body.bus.endpoints()[0].request(Requests::NON_MASKABLE);
    after(&mut body, &machine, &[]);
    assert_eq!(body.engine.delivered, [Event::NonMaskable; 2]);
    assert_eq!(body.engine.flags() & bits::FLAGS_TF, 0);
}

#[test]
fn a_guests_own_debug_exceptions_are_its_own() {
    let (mut body, machine) = (body(), machine(&[]));
    after(&mut body, &machine, &[Exit::Exception(Exception::DEBUG), Exit::HostEvent]);
    assert_eq!(body.engine.delivered, [Event::Exception(Exception::DEBUG)]);
}

#[test]
fn an_exception_goes_before_an_interrupt_that_was_being_delivered() {
    let (mut body, machine) = (body(), machine(&[]));
    listen(&mut body);
    body.bus.endpoints()[0].post(INTERRUPT, Trigger::Edge);
    body.apic.drain(&Arc::clone(&body.bus).endpoints()[0]);
    body.apic.acknowledge();
    body.engine.inject(Event::Interrupt(INTERRUPT));
    let _ = body.settle(Exception::ALIGNMENT.into(), &machine);
    after(&mut body, &machine, &[Exit::HostEvent]);
    assert_eq!(body.engine.window, Some(INTERRUPT));
    after(&mut body, &machine, &[Exit::InterruptWindow, Exit::HostEvent]);
    assert_eq!(body.engine.delivered, [Event::Exception(Exception::ALIGNMENT), Event::Interrupt(INTERRUPT)]);
}

#[test]
fn an_nmi_that_meets_an_exception_comes_right_behind_it() {
    static ARMED: std::sync::Mutex<Vec<u64>> = std::sync::Mutex::new(Vec::new());
    let (mut body, machine) = (body(), machine(&[]));
    body.timer = HostTimer {
        nanoseconds: || 7,
        set_deadline: |deadline| ARMED.lock().unwrap().push(deadline),
        set_handler: |_| (),
    };
    body.engine.inject(Event::Exception(Exception::ALIGNMENT));
    body.bus.endpoints()[0].request(Requests::NON_MASKABLE);
    after(&mut body, &machine, &[Exit::Interrupt]);
    assert_eq!(*ARMED.lock().unwrap(), [7], "the host's timer makes the guest be left");
    body.bus.endpoints()[0].note(Requests::TIMER);
    after(&mut body, &machine, &[]);
    assert_eq!(body.engine.delivered, [Event::Exception(Exception::ALIGNMENT), Event::NonMaskable]);
}

#[test]
fn faults_on_faults_end_in_a_reset() {
    let (mut body, machine) = (body(), machine(&[]));
    body.engine.inject(Event::Exception(Exception::DOUBLE_FAULT));
    let flow = body.settle(Exception::GENERAL_PROTECTION.into(), &machine);
    assert_eq!(flow, Flow::Break(Stop::Ended));
    assert_eq!(*machine.ended.lock().unwrap(), Some(End::Reset(ResetCause::TripleFault)));
}

#[test]
fn a_start_up_begins_in_real_mode_and_only_after_init() {
    let (mut body, machine) = (body_of(2), machine(&[]));
    body.activity = Activity::WaitsForStartUp;
    assert_eq!(body.run(&machine), Stop::Halted);
    body.bus.endpoints()[0].request_start_up(0x9a);
    assert_eq!(after(&mut body, &machine, &[]), Stop::Ended);
    let code = body.engine.segment(SegmentName::Cs);
    assert_eq!((code.selector, code.base, body.engine.instruction_pointer()), (0x9a00, 0x9_a000, 0));
    body.bus.endpoints()[0].request_start_up(0x10);
    after(&mut body, &machine, &[]);
    assert_eq!(body.engine.segment(SegmentName::Cs).base, 0x9_a000, "a running processor ignores it");
}

#[test]
fn the_hosts_timer_is_set_to_the_earliest_deadline_once() {
    static ARMED: std::sync::Mutex<Vec<u64>> = std::sync::Mutex::new(Vec::new());
    static NOW: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);
    let (mut body, machine) = (body(), machine(&[]));
    body.timer = HostTimer {
        nanoseconds: || NOW.load(core::sync::atomic::Ordering::Relaxed),
        set_deadline: |deadline| ARMED.lock().unwrap().push(deadline),
        set_handler: |_| (),
    };
    *machine.deadline.lock().unwrap() = Some(500);
    after(&mut body, &machine, &[Exit::InterruptWindow, Exit::Interrupt]);
    assert_eq!(*ARMED.lock().unwrap(), [500], "it is armed already");
    NOW.store(500, core::sync::atomic::Ordering::Relaxed);
    *machine.deadline.lock().unwrap() = Some(900);
    after(&mut body, &machine, &[Exit::Interrupt]);
    assert_eq!(ARMED.lock().unwrap().last(), Some(&900));
    assert!(!body.is_ready() || body.activity == Activity::Running);
    assert_eq!(body.deadline(), Some(900));
}

#[test]
fn a_timer_whose_interrupt_the_host_took_is_not_lost() {
    use core::sync::atomic::{AtomicU64, Ordering};
    use std::sync::Mutex;
    static NOW: AtomicU64 = AtomicU64::new(0);
    static HANDLER: Mutex<Option<crate::vcpu::TimerHandler>> = Mutex::new(None);
    let (mut body, machine) = (body(), machine(&[]));
    listen(&mut body);
    body.timer = HostTimer {
        nanoseconds: || NOW.load(Ordering::Relaxed),
        set_deadline: |_| (),
        set_handler: |handler| *HANDLER.lock().unwrap() = handler,
    };
    let bus = Arc::clone(&body.bus);
    for (register, value) in [(0x3e0, 0xb), (0x320, u32::from(INTERRUPT)), (0x380, 500)] {
        let _ = body.apic.write(register, value, 0, &bus.endpoints()[0]);
    }
    body.engine.before_entry = Some(|entry| {
        // Between two exits that are no interrupts the moment comes and the host takes its interrupt.
        if entry == 2 {
            NOW.store(500, Ordering::Relaxed);
            let (function, argument) = HANDLER.lock().unwrap().unwrap();
            function(argument);
        }
    });
    after(&mut body, &machine, &[Exit::HostEvent; 4]);
    assert_eq!(body.engine.delivered, [Event::Interrupt(INTERRUPT)]);
    assert!(HANDLER.lock().unwrap().is_none(), "nobody is told when the virtual CPU does not run");
}

#[test]
fn requests_stop_and_flush() {
    let (mut body, machine) = (body(), machine(&[]));
    let before = body.engine.flushes;
    body.bus.endpoints()[0].request(Requests::FLUSH | Requests::YIELD);
    assert_eq!(body.run(&machine), Stop::Yielded);
    assert_eq!(body.engine.flushes, before + 1);
    body.bus.endpoints()[0].request(Requests::STOP);
    assert_eq!((body.run(&machine), body.run(&machine)), (Stop::Ended, Stop::Ended));
    assert_eq!(body.exits().iter().sum::<u64>(), 0);
}

#[test]
fn ports_keep_the_register_bits_that_they_do_not_name() {
    // in al, dx; out dx, ax
    let (mut body, machine) = (body(), machine(&[0xec, 0x66, 0xef]));
    body.engine.registers_mut().set(Register::Rax, 0xffff_ffff_ffff_ff00);
    let access = PortAccess { port: 0x3f8, size: 1, input: true, string: false, repeat: false };
    let out = PortAccess { size: 2, input: false, ..access };
    after(&mut body, &machine, &[Exit::Port(access), Exit::Port(out)]);
    assert_eq!(body.engine.registers().get(Register::Rax), 0xffff_ffff_ffff_ff11);
    assert_eq!(machine.taken(), [Access::In(0x3f8, 1), Access::Out(0x3f8, 2, 0xff11)]);
    assert_eq!(body.engine.instruction_pointer(), 0x1003);
}

#[test]
fn string_output_moves_through_memory_in_bounded_pieces() {
    let (mut body, machine) = (body(), machine(&[0xf3, 0x6e])); // rep outsb
    machine.put(0x2000, &[0x5a; 100]);
    body.engine.registers_mut().set(Register::Rsi, 0x2000);
    body.engine.registers_mut().set(Register::Rcx, 100);
    let access = PortAccess { port: 0xe9, size: 1, input: false, string: true, repeat: true };
    after(&mut body, &machine, &[Exit::Port(access)]);
    assert_eq!((body.engine.instruction_pointer(), body.engine.registers().get(Register::Rcx)), (0x1000, 36));
    after(&mut body, &machine, &[Exit::Port(access)]);
    assert_eq!((body.engine.instruction_pointer(), body.engine.registers().get(Register::Rcx)), (0x1002, 0));
    assert_eq!(machine.taken(), [Access::Out(0xe9, 1, 0x5a); 100]);
}

#[test]
fn string_input_does_not_reach_memory_that_is_not_there() {
    let (mut body, machine) = (body(), machine(&[0x6c])); // insb
    let limited = Segment { limit: 0xfff, attributes: 0xc93, ..Segment::default() };
    body.engine.set_segment(SegmentName::Es, limited);
    body.engine.registers_mut().set(Register::Rdi, 0x1000);
    let access = PortAccess { port: 0x60, size: 1, input: true, string: true, repeat: false };
    after(&mut body, &machine, &[Exit::Port(access)]);
    assert_eq!(body.engine.delivered, [Event::Exception(Exception::GENERAL_PROTECTION)]);
    assert!(machine.taken().is_empty(), "the port is not read for nothing");
}

#[test]
fn hypercalls_write_bounded_lines_and_only_from_the_kernel() {
    let (mut body, machine) = (body(), machine(&[0x0f, 0x01, 0xd9]));
    machine.put(0x2000, b"hello");
    for (register, value) in [(Register::Rax, 1), (Register::Rbx, 0x2000), (Register::Rcx, 5)] {
        body.engine.registers_mut().set(register, value);
    }
    after(&mut body, &machine, &[Exit::Hypercall]);
    assert_eq!(*machine.lines.lock().unwrap(), [b"hello"]);
    assert_eq!(body.engine.registers().get(Register::Rax), 0);
    body.engine.set_instruction_pointer(0x1000);
    for (register, value) in [(Register::Rax, 1), (Register::Rcx, 257)] {
        body.engine.registers_mut().set(register, value);
    }
    after(&mut body, &machine, &[Exit::Hypercall]);
    assert_eq!(body.engine.registers().get(Register::Rax), super::super::hypercall::REFUSED);
    body.engine.set_instruction_pointer(0x1000);
    body.engine.set_privilege(3);
    after(&mut body, &machine, &[Exit::Hypercall]);
    assert_eq!(body.engine.delivered, [Event::Exception(Exception::UNDEFINED)]);
}

#[test]
fn the_local_apic_answers_in_memory() {
    let (mut body, machine) = (body(), machine(&[0x89, 0x03])); // mov [ebx], eax
    body.engine.registers_mut().set(Register::Rbx, 0xfee0_0080);
    body.engine.registers_mut().set(Register::Rax, 0x50);
    let fault = NestedFault {
        address: GuestPhysical::new(0xfee0_0080),
        write: true,
        fetch: false,
        walk: false,
        delivering: None,
    };
    after(&mut body, &machine, &[Exit::Nested(fault)]);
    assert_eq!((body.apic.task_priority(), body.engine.system(SystemRegister::Cr8)), (0x50, 5));
    assert!(machine.taken().is_empty());
}

#[test]
fn crashes_name_their_reason() {
    for (exit, reason) in [
        (Exit::MachineCheck, CrashReason::MachineCheck),
        (Exit::Unknown(0x123), CrashReason::UnknownExit { code: 0x123 }),
        (Exit::Invalid("a rule"), CrashReason::InvalidState { rule: "a rule" }),
        (
            Exit::Nested(NestedFault {
                address: GuestPhysical::new(0xf000_0000),
                write: false,
                fetch: true,
                walk: false,
                delivering: None,
            }),
            CrashReason::FetchOutsideMemory { instruction: 0x1000, address: GuestPhysical::new(0xf000_0000) },
        ),
    ] {
        let (mut body, machine) = (body(), machine(&[]));
        assert_eq!(after(&mut body, &machine, &[exit]), Stop::Ended);
        assert_eq!(*machine.ended.lock().unwrap(), Some(End::Crash(reason)));
    }
}

#[test]
fn a_traced_instruction_traps() {
    let (mut body, machine) = (body(), machine(&[0x0f, 0xa2]));
    body.engine.set_flags(bits::FLAGS_ONE | bits::FLAGS_TF | bits::FLAGS_RF);
    after(&mut body, &machine, &[Exit::Cpuid]);
    assert_eq!(body.engine.delivered, [Event::Exception(Exception::DEBUG)]);
    assert_eq!(body.engine.flags() & bits::FLAGS_RF, 0);
}

/// The device address that RBX holds, read and written by `mov eax, [ebx]` and `mov [ebx], eax`.
const DEVICE: u64 = 0xfe00_0000;

#[test]
fn a_known_page_is_looked_at_without_being_trusted() {
    let (mut body, machine) = (body(), machine(&[0x0f, 0xa2, 0x0f, 0xa2]));
    after(&mut body, &machine, &[Exit::Cpuid]);
    after(&mut body, &machine, &[Exit::Cpuid]);
    assert_eq!(body.engine.instruction_pointer(), 0x1004);
    // The same page, another instruction: prefixed, so longer.
    machine.put(0x1004, &[0x66, 0x0f, 0xa2]);
    after(&mut body, &machine, &[Exit::Cpuid]);
    assert_eq!(body.engine.instruction_pointer(), 0x1007);
}

#[test]
fn moves_of_drivers_are_carried_out_the_same_both_ways() {
    let (mut body, machine) = (body(), machine(&[0x8b, 0x03, 0x89, 0x03]));
    let fault = |write| {
        let address = GuestPhysical::new(DEVICE);
        Exit::Nested(NestedFault { address, write, fetch: false, walk: false, delivering: None })
    };
    body.engine.registers_mut().set(Register::Rbx, DEVICE);
    for known in [false, true] {
        assert_eq!(body.quick_move().is_some(), known);
        body.engine.registers_mut().set(Register::Rax, u64::MAX);
        after(&mut body, &machine, &[fault(false), fault(true)]);
        assert_eq!(body.engine.registers().get(Register::Rax), 0x4433_2211);
        assert_eq!(machine.taken(), [Access::Read(DEVICE, 4), Access::Write(DEVICE, 4, 0x4433_2211)]);
        assert_eq!(body.engine.instruction_pointer(), 0x1004);
        body.engine.set_instruction_pointer(0x1000);
    }
    body.forget_code_pages();
    assert_eq!(body.quick_move(), None);
}
