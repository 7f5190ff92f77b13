//! The sandbox, tried from inside: each test runs commands as a pipeline would and looks at what they could do. All
//! tests run as whoever runs them; `ordinary_user` runs them a second time as `nobody` when that is root, and `image` runs
//! them once more in an image.

mod confinement;
mod datum;
mod endings;
mod fallback;
mod image;
mod limits;
mod ordinary_user;
mod outputs;
mod ports;
mod view;
