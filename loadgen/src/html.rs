//! placeholder
use crate::result::Report;
/// x
pub fn render(_reports: &[(String, Report)]) -> String {
    String::new()
}
