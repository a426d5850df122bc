//! How a stack is named.

/// What joins the names of a stack's members.
pub const JOIN: char = '+';

/// Whether a name is that of a stack.
pub fn is_stack(name: &str) -> bool {
    name.contains(JOIN)
}

/// The names of a stack's members, outer first.
pub fn members(name: &str) -> impl Iterator<Item = &str> {
    name.split(JOIN).map(str::trim)
}
