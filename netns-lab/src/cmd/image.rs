//! `netns-lab image`: builds what a container can have as its root.

use labkit::text::count;
use labkit::{Failure, Outcome, shell};

use crate::cli::{ImageArgs, ImageCommand};
use crate::edge::image;

/// Runs `image`.
pub(super) fn run(args: &ImageArgs) -> Result<Outcome, Failure> {
    let ImageCommand::Build { file } = &args.command;
    let content = image::build(file)?;
    let size = std::fs::metadata(file).map_or(0, |found| found.len());
    let shown = file.display().to_string();
    let shown = labkit::text::printable(&shown);
    shell::emit(&format!(
        "{shown}: {}, {} MiB\nnext: netns-lab run web-1 --name own --rootfs {shown} -- \\\n        \
         netns-lab serve --pod own --ip 127.0.0.1 --listen http:9090/tcp\n",
        count(content.len(), "file"),
        size.div_ceil(1 << 20)
    ))?;
    Ok(Outcome::Done)
}
