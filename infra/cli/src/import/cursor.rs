//! A position in a text that is read byte by byte.

/// A text, and the position of its next byte.
pub struct Cursor<'t> {
    text: &'t [u8],
    /// The number of bytes before the next one.
    pub at: usize,
}

impl<'t> Cursor<'t> {
    pub fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Returns the bytes that are not read yet.
    pub fn rest(&self) -> &'t [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Returns the next byte without reading it; `None` at the end.
    pub fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Reads the next byte; `None` at the end.
    pub fn next(&mut self) -> Option<u8> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    /// Reads this byte if it is the next one, and returns whether it is.
    pub fn accept(&mut self, byte: u8) -> bool {
        let follows = self.peek() == Some(byte);
        self.at += usize::from(follows);
        follows
    }

    /// Reads the bytes before the first one that is no `part`.
    pub fn take(&mut self, part: impl Fn(u8) -> bool) -> &'t [u8] {
        let rest = self.rest();
        let length = rest.iter().take_while(|byte| part(**byte)).count();
        self.at += length;
        &rest[..length]
    }

    /// Reads up to two more digits of the code of a byte whose `first` digit is read. `None` if the code is no byte.
    pub fn code(&mut self, first: u8, base: u16) -> Option<u8> {
        let mut code = u16::from(first - b'0');
        for _ in 0..2 {
            let digit = self.peek().and_then(|byte| byte.checked_sub(b'0')).map(u16::from);
            let Some(digit) = digit.filter(|digit| *digit < base) else { break };
            code = code * base + digit;
            self.at += 1;
        }
        code.try_into().ok()
    }
}
