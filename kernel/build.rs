//! How the kernel's binary is linked: a static ELF in the last 2 GiB of the address space, one segment a permission.
//!
//! The target's default is a position-independent executable; the code that it makes runs as well at a fixed address.

fn main() {
    println!("cargo:rerun-if-changed=kernel.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let Ok(folder) = std::env::var("CARGO_MANIFEST_DIR") else { return };
    for argument in ["--no-pie", "-znorelro", "-zmax-page-size=4096", "--build-id=none"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-T{folder}/kernel.ld");
}
