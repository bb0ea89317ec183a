//! How long the set-up of a TCP connection takes. Both ends run inside a machine.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::load::say;
use crate::stats::median;

const PATIENCE: Duration = Duration::from_secs(5);

/// Accepts connections and closes them at once, for ever.
///
/// # Errors
/// When the address is taken.
pub fn accept(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    say("listening");
    for stream in listener.incoming() {
        drop(stream);
    }
    Ok(())
}

/// Connects to each address in turn, so many times, one connection after the other; the median time
/// of each address, in µs.
///
/// # Errors
/// When a connection fails.
pub fn medians(count: usize, addresses: &[SocketAddr]) -> io::Result<Vec<f64>> {
    let mut took = vec![Vec::with_capacity(count); addresses.len()];
    for _ in 0..count {
        for (address, took) in addresses.iter().zip(&mut took) {
            let began = Instant::now();
            let mut stream = TcpStream::connect(address)?;
            took.push(began.elapsed().as_secs_f64() * 1e6);
            // The server closes first: it keeps the port that waits, and no queue grows at it.
            stream.set_read_timeout(Some(PATIENCE))?;
            let _ = stream.read(&mut [0]);
        }
    }
    Ok(took.iter().map(|took| median(took)).collect())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_address_has_a_median() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || listener.incoming().for_each(drop));
        let medians = medians(5, &[address, address]).unwrap();
        assert_eq!(medians.len(), 2);
        assert!(medians.iter().all(|took| *took > 0.0), "{medians:?}");
    }
}
