//! What holds of whatever a store gives back: see [`crate::fuzzing`].

use std::sync::LazyLock;

use rand::RngExt;
use secrecy::ExposeSecret;

use super::seal::Sealer;
use crate::entropy::os_rng;

const TOKEN: &str = "98_an-access-token";

/// Of a secret of this process alone: what another one sealed opens nothing here, either.
static SEALER: LazyLock<Sealer> = LazyLock::new(|| {
    let secret = os_rng().random::<u128>().to_string();
    Sealer::new("wx0", &secret.into())
});
static SEALED: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| SEALER.seal(TOKEN));

/// What was sealed with each byte altered by the input's, cut or lengthened; and the input itself.
pub(crate) fn sealed_token(data: &[u8]) {
    let Some(sealed) = SEALED.as_deref() else { return };
    // A fuzzer sees what is compared, so that it may come with the very bytes.
    assert!(data == sealed || SEALER.open(data).is_none(), "anybody can seal");
    let opened = SEALER.open(sealed);
    assert_eq!(opened.as_ref().map(ExposeSecret::expose_secret), Some(TOKEN));
    let (length, mask) = data
        .split_first()
        .map_or((0, data), |(length, mask)| (usize::from(*length), mask));
    let mut altered = sealed.to_vec();
    altered.iter_mut().zip(mask).for_each(|(byte, other)| *byte ^= other);
    altered.truncate(sealed.len().saturating_sub(length));
    altered.extend(mask.iter().skip(sealed.len()));
    assert!(
        altered == sealed || SEALER.open(&altered).is_none(),
        "what was altered opens"
    );
}
