//! Names that users choose for their keys, API keys and SSH keys alike.

use crate::error::ServiceError;

/// Maximum length of a name in characters.
const MAX_NAME_LEN: usize = 64;

/// Checks a name.
pub(crate) fn checked(name: String) -> Result<String, ServiceError> {
    let fits = (1..=MAX_NAME_LEN).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if fits {
        Ok(name)
    } else {
        Err(ServiceError::InvalidValue(format!(
            "name: The name is invalid. Use 1 to {MAX_NAME_LEN} printable characters."
        )))
    }
}
