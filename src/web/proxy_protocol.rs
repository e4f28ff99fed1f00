//! Connections that a proxy of streams passes on, each with a header that says whose it is.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::config::Network;
use crate::wire::proxy_protocol::{FIXED, read_head};

/// Reads the header; the client's address, or the proxy's own for what it sends on its own behalf.
///
/// # Errors
/// The connection broke, or is not from such a proxy: then nothing it says may be believed, so it ends.
pub(super) async fn client(
    stream: &mut TcpStream,
    peer: SocketAddr,
    proxies: &[Network],
) -> Result<SocketAddr, io::Error> {
    let ip = peer.ip().to_canonical();
    if !proxies.iter().any(|network| network.contains(ip)) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not a trusted proxy"));
    }
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).await?;
    let head = read_head(fixed).map_err(wrong)?;
    let mut rest = vec![0; head.rest];
    stream.read_exact(&mut rest).await?;
    Ok(head.source(&rest).map_err(wrong)?.unwrap_or(peer))
}
