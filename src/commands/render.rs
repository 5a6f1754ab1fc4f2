//! stub
use super::context::Context;
use anyhow::Result;
pub(super) fn run(_: &Context) -> Result<()> {
    Ok(())
}
