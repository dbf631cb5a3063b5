//! The boot loader.
#![no_std]
#![no_main]
