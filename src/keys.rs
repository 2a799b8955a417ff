//! `scanlogin keys`: makes what signs id_tokens.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use zeroize::Zeroizing;

use crate::oidc::{Algorithm, SigningKeys, new_key_set};

/// Prints a new private JWK Set, or writes it to a file that only its owner can read. A file that is there stays as it is, and is fine
/// where it holds what is asked for: whoever makes keys at each start makes them once.
///
/// # Errors
/// When the file can't be written, or is there and holds no key of such an algorithm.
pub fn new(algorithms: &[Algorithm], out: Option<&Path>) -> anyhow::Result<()> {
    let algorithms: BTreeSet<Algorithm> = algorithms.iter().copied().collect();
    if let Some(path) = out.filter(|path| path.exists()) {
        check_kept(path, &algorithms).with_context(|| format!("--out {}", path.display()))?;
        let path = path.display();
        writeln!(
            std::io::stderr(),
            "{path} exists already and is left as it is: no key was made. Give another name, or take it away first"
        )?;
        return Ok(());
    }
    let key_set = new_key_set(&algorithms)?;
    let Some(path) = out else {
        writeln!(std::io::stdout(), "{}", key_set.as_str())?;
        return Ok(());
    };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("--out {}", path.display()))?;
    writeln!(file, "{}", key_set.as_str())?;
    Ok(())
}

/// Whether a file that is there would do in place of a new one.
fn check_kept(path: &Path, algorithms: &BTreeSet<Algorithm>) -> anyhow::Result<()> {
    let text = Zeroizing::new(std::fs::read_to_string(path)?);
    let kept = SigningKeys::parse(&text).context("it exists already, is left as it is, and can't be used")?;
    if let Some(missing) = algorithms.difference(&kept.algorithms()).next() {
        let alg = missing.as_str();
        bail!(
            "it exists already, is left as it is, and holds no key for {alg}: print one with `scanlogin keys new --alg {alg}` and put it \
             beside the others"
        );
    }
    Ok(())
}
