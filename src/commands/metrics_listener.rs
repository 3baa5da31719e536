//! `--metrics-listen`: where Prometheus asks over TCP.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::exit::Exit;
use super::failure::{self, Failure};

/// Why an address isn't one.
#[derive(Debug, thiserror::Error)]
#[error("write a port, or an address and a port, as in 9469, 0.0.0.0:9469 or [::]:9469")]
pub(super) struct AddressError;

/// Takes an address; that of a port alone is loopback's.
pub(super) fn address(text: &str) -> Result<SocketAddr, AddressError> {
    match text.parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => text.parse().map_err(|_| AddressError),
    }
}

/// Listens there.
pub(super) fn open(address: SocketAddr) -> Result<TcpListener, Failure> {
    let opened = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        tracing::info!(address = %listener.local_addr()?, "metrics");
        Ok(listener)
    };
    opened().map_err(|error| {
        let cause = format!("--metrics-listen {address}: {error}");
        Failure::new(Exit::Failed, cause, failure::system(&error))
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    #[rstest]
    #[case("9469", Some("127.0.0.1:9469"))]
    #[case("0.0.0.0:9469", Some("0.0.0.0:9469"))]
    #[case("[::1]:9469", Some("[::1]:9469"))]
    #[case("pool.example.com:9469", None)]
    #[case("0.0.0.0", None)]
    #[case("65536", None)]
    #[case("", None)]
    fn an_address_of_a_port_alone_is_loopback_s(
        #[case] text: &str,
        #[case] expected: Option<&str>,
    ) {
        let address = super::address(text).ok().map(|address| address.to_string());
        assert_eq!(address.as_deref(), expected);
    }
}
