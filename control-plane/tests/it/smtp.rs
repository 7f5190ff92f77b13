//! A small server that takes mail, and that can be told to refuse or to break off.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with the next mails.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Takes,
    /// Not now.
    Busy,
    /// Never.
    Refuses,
    /// Not from somebody with that password.
    Locks,
    /// Says nothing any more.
    Hangs,
    /// Takes it, and the connection breaks before it says so.
    Forgets,
}

#[derive(Clone)]
pub struct Receiver {
    pub url: String,
    taken: Arc<Mutex<Vec<String>>>,
    mood: Arc<Mutex<Mood>>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            url: format!("smtp://{}", listener.local_addr().unwrap()),
            taken: Arc::default(),
            mood: Arc::new(Mutex::new(Mood::Takes)),
        };
        let own = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let own = own.clone();
                tokio::spawn(async move { own.talk(stream).await });
            }
        });
        receiver
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// What has come, head and text, oldest first.
    pub fn mails(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }

    async fn talk(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 test\r\n").await.ok()?;
        let mut line = String::new();
        loop {
            line.clear();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let mood = *self.mood.lock().unwrap();
            let answer: &[u8] = match line.to_uppercase().split([' ', '\r']).next()? {
                "RCPT" if mood == Mood::Hangs => std::future::pending().await,
                "MAIL" if mood == Mood::Locks => b"535 not with that password\r\n",
                "RCPT" if mood == Mood::Busy => b"451 come again\r\n",
                "RCPT" if mood == Mood::Refuses => b"550 nobody of that name\r\n",
                "EHLO" => b"250-test\r\n250 8BITMIME\r\n",
                "DATA" => {
                    stream.write_all(b"354 go on\r\n").await.ok()?;
                    let mut mail = String::new();
                    while !mail.ends_with("\r\n.\r\n") {
                        if stream.read_line(&mut mail).await.ok()? == 0 {
                            return None;
                        }
                    }
                    self.taken.lock().unwrap().push(mail);
                    if mood == Mood::Forgets {
                        return None;
                    }
                    b"250 taken\r\n"
                }
                "QUIT" => return None,
                _ => b"250 well\r\n",
            };
            stream.write_all(answer).await.ok()?;
        }
    }
}

/// The part of a mail that looks like a token of that kind.
pub fn token(mail: &str, kind: &str) -> String {
    let prefix = format!("hwd_{kind}_");
    let at = mail.find(&prefix).unwrap_or_else(|| panic!("no {prefix} in {mail}"));
    mail[at..].chars().take(prefix.len() + 36).collect()
}
