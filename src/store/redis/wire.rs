//! One RESP3 conversation over TCP or TLS. Hides dialling, greeting, frames and their bounds.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use redis_protocol::resp3::decode::complete::decode_bytes_mut;
use redis_protocol::resp3::encode::complete::extend_encode_borrowed;
use redis_protocol::resp3::types::{BorrowedFrame, BytesFrame, Resp3Frame};
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::store::redis::servers::Address;

/// How long dialling and greeting may take together.
const DIAL_LIMIT: Duration = Duration::from_secs(1);

/// How long a write may wait for a peer that takes nothing.
const WRITE_LIMIT: Duration = Duration::from_millis(900);

/// No frame we ask for comes near: a message has some hundred bytes, `CLUSTER NODES` some hundred per node.
const FRAME_LIMIT: usize = 1 << 20;

/// The greeting nests deepest: its map holds an array of modules, each a map with an array. The decoder itself recurses
/// without a bound.
const DEPTH_LIMIT: usize = 8;

/// Room made for each read.
const READ_SIZE: usize = 16 << 10;

/// How servers are greeted.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    /// What `CLIENT LIST` calls the connection.
    pub(super) name: &'static str,
    pub(super) username: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    /// The name in the certificates of servers that are known by IP address, if it is not that.
    pub(super) certified_name: Option<String>,
}

/// Why a conversation ended or never began.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("closed: {0}")]
    Closed(#[from] io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("refused: {0}")]
    Refused(String),
    #[error("not understood: {0}")]
    Invalid(&'static str),
}

impl Dialer {
    /// Connects and greets; also tells the role that the server says it has. Sentinels say none.
    pub(super) async fn dial(&self, address: &Address) -> Result<(Wire, Option<String>), WireError> {
        timeout(DIAL_LIMIT, self.dial_unbounded(address))
            .await
            .unwrap_or(Err(WireError::Timeout))
    }

    async fn dial_unbounded(&self, address: &Address) -> Result<(Wire, Option<String>), WireError> {
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = self.name_of(address)?;
                Box::new(TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?)
            }
        };
        let mut wire = Wire {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            heard: Instant::now(),
        };
        let role = wire.greet(self).await?;
        Ok((wire, role))
    }

    /// The name that a server's certificate must be for.
    fn name_of(&self, address: &Address) -> Result<ServerName<'static>, WireError> {
        let name = address.name_in_certificate(self.certified_name.as_deref());
        ServerName::try_from(name.to_owned()).map_err(|_| WireError::Refused(format!("no certificate is for {name}")))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open conversation.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    incoming: BytesMut,
    outgoing: BytesMut,
    heard: Instant,
}

impl Wire {
    /// When the peer's last byte came.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// Puts a command behind those not yet flushed.
    pub(super) fn push<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) -> Result<(), WireError> {
        let data = words
            .into_iter()
            .map(|word| BorrowedFrame::BlobString {
                data: word.as_bytes(),
                attributes: None,
            })
            .collect::<Vec<_>>();
        let command = BorrowedFrame::Array {
            data: &data,
            attributes: None,
        };
        extend_encode_borrowed(&mut self.outgoing, &command, false)
            .map_err(|_| WireError::Invalid("a command can't be encoded"))?;
        Ok(())
    }

    /// Sends what was pushed.
    pub(super) async fn flush(&mut self) -> Result<(), WireError> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.outgoing).await?;
            self.stream.flush().await
        };
        timeout(WRITE_LIMIT, write).await.map_err(|_| WireError::Timeout)??;
        self.outgoing.clear();
        Ok(())
    }

    /// The next frame. Cancelling loses nothing.
    pub(super) async fn frame(&mut self) -> Result<BytesFrame, WireError> {
        loop {
            if whole_frame(&self.incoming)? {
                return match decode_bytes_mut(&mut self.incoming) {
                    Ok(Some((frame, ..))) => Ok(frame),
                    Ok(None) | Err(_) => Err(WireError::Invalid("not a frame of RESP3")),
                };
            }
            self.incoming.reserve(READ_SIZE);
            if self.stream.read_buf(&mut self.incoming).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.heard = Instant::now();
        }
    }

    /// Sends one command and takes the next frame as its reply: for conversations without pushes.
    pub(super) async fn ask<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) -> Result<BytesFrame, WireError> {
        let words: Vec<&str> = words.into_iter().collect();
        let [reply] = self.ask_each([&words]).await?;
        reply
    }

    /// The same of several at once; each has a reply of its own.
    pub(super) async fn ask_each<const N: usize>(
        &mut self,
        commands: [&[&str]; N],
    ) -> Result<[Result<BytesFrame, WireError>; N], WireError> {
        for command in commands {
            self.push(command.iter().copied())?;
        }
        self.flush().await?;
        let mut replies = Vec::with_capacity(N);
        for _ in 0..N {
            let reply = self.frame().await?;
            replies.push(match error_text(&reply) {
                Some(text) => Err(WireError::Refused(text.to_owned())),
                None => Ok(reply),
            });
        }
        replies.try_into().map_err(|_| WireError::Invalid("too few replies"))
    }

    async fn greet(&mut self, dialer: &Dialer) -> Result<Option<String>, WireError> {
        let mut hello = vec!["HELLO", "3"];
        if let Some(password) = &dialer.password {
            let username = dialer.username.as_deref().unwrap_or("default");
            hello.extend(["AUTH", username, password.expose_secret()]);
        }
        hello.extend(["SETNAME", dialer.name]);
        let BytesFrame::Map { data, .. } = self.ask(hello).await.map_err(without_arguments)? else {
            return Err(WireError::Invalid("the greeting is not a map"));
        };
        let role = data.iter().find(|(key, _)| key.as_str() == Some("role"));
        Ok(role.and_then(|(_, role)| role.as_str()).map(str::to_owned))
    }
}

/// A server that does not know the greeting repeats it, with the password.
fn without_arguments(error: WireError) -> WireError {
    match error {
        WireError::Refused(text) => {
            let end = text.find(", with args").unwrap_or(text.len());
            WireError::Refused(text.get(..end).unwrap_or_default().to_owned())
        }
        other => other,
    }
}

/// What an error reply says; `None` when it is none.
pub(super) fn error_text(frame: &BytesFrame) -> Option<&str> {
    match frame {
        BytesFrame::SimpleError { .. } | BytesFrame::BlobError { .. } => Some(frame.as_str().unwrap_or("an error")),
        _ => None,
    }
}

/// Whether `bytes` begin with a whole frame. Refuses what is larger or deeper than anything we ask for, as soon as that shows.
pub(super) fn whole_frame(bytes: &[u8]) -> Result<bool, WireError> {
    let mut at = 0_usize;
    // How many elements are still to come, for each level that is open.
    let mut open = vec![1_usize];
    while let Some(left) = open.last_mut() {
        let Some(next) = left.checked_sub(1) else {
            open.pop();
            continue;
        };
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(line) = rest
            .windows(2)
            .position(|two| two == b"\r\n")
            .and_then(|end| rest.get(..end))
        else {
            return match bytes.len().max(at) {
                0..=FRAME_LIMIT => Ok(false),
                _ => Err(WireError::Invalid("a frame is too large")),
            };
        };
        at += line.len() + 2;
        *left = next;
        match line.first() {
            Some(b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(') => {}
            Some(b'$' | b'!' | b'=') => at += length(line)? + 2,
            Some(b'*' | b'~' | b'>') => open.push(length(line)?),
            Some(b'%') => open.push(2 * length(line)?),
            Some(b'|') => {
                // Attributes stand before the element they belong to.
                *left += 1;
                open.push(2 * length(line)?);
            }
            _ => return Err(WireError::Invalid("not a frame of RESP3")),
        }
        if open.len() > DEPTH_LIMIT {
            return Err(WireError::Invalid("a frame is too deep"));
        }
    }
    match at {
        0..=FRAME_LIMIT => Ok(bytes.len() >= at),
        _ => Err(WireError::Invalid("a frame is too large")),
    }
}

fn length(line: &[u8]) -> Result<usize, WireError> {
    line.get(1..)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .filter(|length| *length <= FRAME_LIMIT)
        .ok_or(WireError::Invalid("a length is none"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HELLO: &[u8] = b"%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n\
        *1\r\n%1\r\n$4\r\nargs\r\n*1\r\n_\r\n";
    const MESSAGE: &[u8] = b"|1\r\n+a\r\n#t\r\n>3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n";

    #[test]
    fn a_frame_is_whole_at_its_last_byte_and_not_before() {
        for frame in [
            HELLO,
            MESSAGE,
            b"+PONG\r\n",
            b"*0\r\n",
            b"$0\r\n\r\n",
            b"=5\r\ntxt:a\r\n",
        ] {
            for end in 0..frame.len() {
                assert!(!whole_frame(&frame[..end]).unwrap(), "{end} of {frame:?}");
            }
            assert!(whole_frame(frame).unwrap(), "{frame:?}");
            let mut bytes = BytesMut::from(frame);
            bytes.extend_from_slice(b"+next\r\n");
            decode_bytes_mut(&mut bytes).unwrap().expect("the decoder agrees");
            assert_eq!(&bytes[..], b"+next\r\n");
        }
    }

    #[test]
    fn a_refused_greeting_does_not_tell_the_password() {
        let text = "ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `opensesame`, ";
        let told = without_arguments(WireError::Refused(text.to_owned())).to_string();
        assert_eq!(told, "refused: ERR unknown command `HELLO`");
    }

    #[test]
    fn what_is_too_large_too_deep_or_no_frame_is_refused() {
        let deep = b"*1\r\n".repeat(DEPTH_LIMIT);
        let long_line = [b"+".as_slice(), &vec![b'a'; FRAME_LIMIT]].concat();
        let many = [
            b"*1000\r\n".as_slice(),
            &[b"$2000\r\n".as_slice(), &[b'a'; 2000], b"\r\n"].concat().repeat(600),
        ]
        .concat();
        let wrong: [&[u8]; 9] = [
            b"$1048577\r\n",
            b"*99999999999999999999\r\n",
            b"*-1\r\n",
            b"*?\r\n",
            b"HELLO 3\r\n",
            b"GET / HTTP/1.1\r\n",
            &deep,
            &long_line,
            &many,
        ];
        for bytes in wrong {
            assert!(whole_frame(bytes).is_err(), "{:?}", &bytes[..bytes.len().min(40)]);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_bring_the_decoder_down(pieces in prop::collection::vec(piece(), 0..12)) {
            let mut bytes = BytesMut::from(pieces.concat().as_slice());
            while let Ok(true) = whole_frame(&bytes) {
                if !matches!(decode_bytes_mut(&mut bytes), Ok(Some(_))) {
                    break;
                }
            }
        }
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            (prop::sample::select(b"+-:_,#($!=*~>%|".as_slice()), 0..4_u8).prop_map(|(kind, n)| format!(
                "{}{n}\r\n",
                kind as char
            )
            .into_bytes()),
            prop::collection::vec(any::<u8>(), 0..6),
            Just(b"txt:\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
        ]
    }
}
