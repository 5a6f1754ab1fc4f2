//! A lab in one file: program, images, project. Packing, checking, unpacking, offering it to a classroom. What the engine
//! must do with images is the engine's business: here they are archives that come and go.
//!
//! A bundle is a tar archive: `bundle.json` (what is in it), `README.txt`, the program, the project, and an OCI image layout
//! whose layers are stored once, compressed. Everything has a digest in `bundle.json` and is compared with it before use.

mod archive;
mod digest;
mod fetch;
mod file;
mod manifest;
mod pack;
mod project;
mod serve;

pub use archive::write_archive;
pub use digest::{Hashing, sha256};
pub use fetch::Teacher;
pub use file::{BundleFile, check_target, pack_file};
pub use manifest::{BundleImage, Entry, Layer, MANIFEST, Manifest};
pub use pack::{Blobs, pack_images};
pub use project::{pack_project, place, unpack_project};
pub use serve::serve;
