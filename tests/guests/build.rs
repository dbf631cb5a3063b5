//! Gives the linker the guests' layout: an ELF file that a Multiboot loader can take as a flat image.

fn main() {
    println!("cargo:rerun-if-changed=guest.ld");
    // Elsewhere than on the bare machine the binaries are empty, so that the workspace can be checked as a whole.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for argument in ["--no-pie".into(), "--no-dynamic-linker".into(), format!("--script={folder}/guest.ld")] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
