//! A case that is added or removed is taken in too, and not just one that is changed.

fn main() {
    println!("cargo::rerun-if-changed=cases");
}
