//! A TCP proxy whose connections fail.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// A TCP proxy to a server, which can be cut off and connected again.
pub struct ChaosProxy {
    /// The base URL of the proxy.
    pub url: String,
    target: watch::Sender<Option<String>>,
}

impl ChaosProxy {
    /// Listens on a free port, not connected to a server.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (target, receiver) = watch::channel(None);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, receiver.clone()));
            }
        });
        Self { url, target }
    }

    /// Forwards new connections to the server at `url`.
    pub fn connect(&self, url: &str) {
        self.target.send_replace(Some(url.trim_start_matches("http://").to_owned()));
    }

    /// Closes all connections, and each new one at once.
    pub fn cut(&self) {
        self.target.send_replace(None);
    }
}

async fn forward(mut client: TcpStream, mut target: watch::Receiver<Option<String>>) {
    let Some(address) = target.borrow_and_update().clone() else { return };
    let Ok(mut server) = TcpStream::connect(address).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = target.changed() => {}
    }
}

/// Returns a URL that refuses connections until its socket listens. The socket keeps the port from other programs.
pub fn refusing_address() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, url)
}
