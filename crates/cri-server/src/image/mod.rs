//! ImageService: one file a call.

mod image_fs_info;
mod image_status;
mod list_images;
mod pull_image;
mod remove_image;
mod stream_images;

pub(crate) use image_status::progress;
