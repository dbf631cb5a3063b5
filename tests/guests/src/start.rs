//! The way from a Multiboot 1 loader (32-bit protected mode without paging) to 64-bit code, for the first processor,
//! and from real mode for the others.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .multiboot, "a"
    .balign 4
    multiboot_header:
    .long 0x1BADB002
    // Modules on pages, memory information, address fields.
    .long 0x00010003
    .long -(0x1BADB002 + 0x00010003)
    .long multiboot_header
    .long guest_image_start
    .long guest_data_end
    .long guest_image_end
    .long guest_start

    .section .text
    .code32
    .global guest_start
    guest_start:
    cli
    cld
    mov esp, offset first_stack_end
    mov edi, eax
    mov esi, ebx

    // Four directories of 2 MiB pages for the first 4 GiB: writable; from 2 GiB on uncached, as devices are there.
    mov ebx, offset directories
    xor ecx, ecx
    2:
    mov eax, ecx
    shl eax, 21
    or eax, 0x83
    cmp ecx, 1024
    jb 3f
    or eax, 0x18
    3:
    mov [ebx + ecx * 8], eax
    mov dword ptr [ebx + ecx * 8 + 4], 0
    inc ecx
    cmp ecx, 2048
    jb 2b
    mov eax, offset directories + 3
    mov ebx, offset directory_pointers
    xor ecx, ecx
    4:
    mov [ebx + ecx * 8], eax
    add eax, 4096
    inc ecx
    cmp ecx, 4
    jb 4b
    mov eax, offset directory_pointers + 3
    mov [top_table], eax
    mov ebx, offset first_main
    jmp to_long_mode

    // Where another processor arrives from the page that it was started in, with its stack's end in ESP.
    .global other_start
    other_start:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, [other_stack_end]
    mov ebx, offset other_main

    // To the 64-bit code at EBX. EDI and ESI are kept.
    to_long_mode:
    lgdt [descriptor_table_pointer]
    mov eax, cr4
    or eax, 1 << 5
    mov cr4, eax
    mov eax, offset top_table
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 1 << 8
    wrmsr
    mov eax, cr0
    or eax, (1 << 31) | (1 << 16) | 1
    and eax, ~((1 << 30) | (1 << 29))
    mov cr0, eax
    push 8
    push ebx
    retf

    .code64
    first_main:
    call flat_segments
    call guest_main
    ud2
    other_main:
    call flat_segments
    call guest_other_main
    ud2

    // The upper halves of registers are undefined after the switch.
    flat_segments:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    mov edi, edi
    mov esi, esi
    pop rax
    mov esp, esp
    jmp rax

    // Copied to a page below 1 MiB, where another processor begins in real mode: CS is the page, IP 0.
    .code16
    .global other_real_mode_start, other_real_mode_end
    other_real_mode_start:
    cli
    cld
    mov ax, cs
    mov ds, ax
    // LGDT with a 32-bit base, from DS:displacement.
    .byte 0x66, 0x0F, 0x01, 0x16
    .word other_descriptor_table_pointer - other_real_mode_start
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    // Far jump with a 32-bit offset to selector 0x18.
    .byte 0x66, 0xEA
    .long other_start
    .word 0x18
    .balign 4
    other_descriptor_table_pointer:
    .word 31
    .long descriptor_table
    other_real_mode_end:
    .code64

    .section .rodata
    .balign 8
    descriptor_table:
    .quad 0
    .quad 0x00AF9B000000FFFF
    .quad 0x00CF93000000FFFF
    .quad 0x00CF9B000000FFFF
    descriptor_table_pointer:
    .word 31
    .quad descriptor_table

    .section .bss.start, "aw", @nobits
    .balign 4096
    .global top_table, directory_pointers
    top_table:
    .skip 4096
    directory_pointers:
    .skip 4096
    directories:
    .skip 4096 * 4
    first_stack:
    .skip 65536
    first_stack_end:
    .global other_stack_end
    other_stack_end:
    .skip 8
    .section .text
"#
);
