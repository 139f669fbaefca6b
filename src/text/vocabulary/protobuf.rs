//! Protocol Buffers' wire format, read without copying: <https://protobuf.dev/programming-guides/encoding/>.

/// One field of a message: its number and what it holds.
#[derive(Debug, PartialEq)]
pub(super) struct Field<'a> {
    pub number: u64,
    pub value: Value<'a>,
}

/// The wire types. Which type of the schema a value is, the reader of the field knows.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

/// The fields of a message in the order of the file; after a broken one nothing follows.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Option<Field<'a>> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.array()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(self.array()?),
            // 3 and 4 are groups, which no schema since proto2 has; 6 and 7 are nothing.
            _ => return None,
        };
        Some(Field { number: key >> 3, value })
    }

    /// Seven bits a byte, the lowest first, at most 64 bits; the high bit says that more follow.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let left = self.rest.len();
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or_else(|| format!("broken or cut off {left} bytes before its end")))
    }
}

impl<'a> Value<'a> {
    pub fn bytes(&self) -> Result<&'a [u8], String> {
        if let Value::Bytes(bytes) = self { Ok(bytes) } else { Err(self.unexpected("bytes")) }
    }

    pub fn text(&self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "holds a text that is not UTF-8".into())
    }

    /// An int32 or an enum: negative ones are written with all 64 bits.
    pub fn int(&self) -> Result<i64, String> {
        if let Value::Varint(value) = *self { Ok(value as i64) } else { Err(self.unexpected("a number")) }
    }

    pub fn flag(&self) -> Result<bool, String> {
        Ok(self.int()? != 0)
    }

    pub fn float(&self) -> Result<f32, String> {
        if let Value::Fixed32(bytes) = *self { Ok(f32::from_le_bytes(bytes)) } else { Err(self.unexpected("a float")) }
    }

    fn unexpected(&self, wanted: &str) -> String {
        format!("holds something else where {wanted} should be")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_the_format_writes_them() {
        let message = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 0, 0, 0x80, 0xbf, 0x21, 1, 2, 3, 4, 5, 6, 7, 8];
        let fields: Vec<_> = Fields::of(&message).map(Result::unwrap).collect();
        assert_eq!((fields[0].number, fields[0].value.int()), (1, Ok(150)));
        assert_eq!((fields[1].number, fields[1].value.text()), (2, Ok("hi")));
        assert_eq!((fields[2].number, fields[2].value.float()), (3, Ok(-1.0)));
        assert_eq!((fields[3].number, &fields[3].value), (4, &Value::Fixed64([1, 2, 3, 4, 5, 6, 7, 8])));
        let minus_one = [[0x08].as_slice(), &[0xff; 9], &[0x01]].concat();
        assert_eq!(Fields::of(&minus_one).next().unwrap().unwrap().value.int(), Ok(-1));
        assert!(fields[0].value.text().is_err() && fields[1].value.int().is_err() && fields[1].value.float().is_err());
    }

    #[test]
    fn broken_messages_end_with_one_error() {
        for message in [
            &[0x08][..],
            &[0x08, 0x80],
            &[0x0a, 0x05, b'h'],
            &[0x0b],
            &[0x0f],
            &[0x1d, 0, 0],
            &[0xff; 11],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        ] {
            let fields: Vec<_> = Fields::of(message).collect();
            assert!(fields.len() == 1 && fields[0].is_err(), "{message:?}");
        }
    }
}
