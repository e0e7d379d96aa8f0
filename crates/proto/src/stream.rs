//! The rules of the guest's byte stream.
