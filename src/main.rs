//! scanlogin.
fn main() {}
