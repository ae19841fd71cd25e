//! `corten imagefsinfo`.

use cri_proto::v1::{FilesystemUsage, ImageFsInfoRequest};

use crate::human;
use crate::json::{Json, Style, from_message};
use crate::output::{Format, FormatArg, Output};
use crate::session::Session;
use crate::table::Table;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    format: FormatArg,
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let format = args.format.or(Format::Json)?;
    let answer = session.images().await?.image_fs_info(ImageFsInfoRequest {}).await?;
    if format != Format::Table {
        let status = from_message(&answer, Style::Whole)?;
        return output.structured(&Json::Object(vec![("status".to_owned(), status)]), format);
    }
    let mut table = Table::new(["FILESYSTEM", "MOUNTPOINT", "USED", "INODES"]);
    add(&mut table, "image", &answer.image_filesystems);
    add(&mut table, "container", &answer.container_filesystems);
    table.write(output.out)?;
    Ok(())
}

fn add(table: &mut Table, kind: &str, filesystems: &[FilesystemUsage]) {
    for usage in filesystems {
        let mountpoint = usage.fs_id.as_ref().map_or("", |id| id.mountpoint.as_str());
        table.row(vec![
            kind.to_owned(),
            mountpoint.to_owned(),
            human::size(usage.used_bytes.as_ref().map_or(0, |v| v.value)),
            usage.inodes_used.as_ref().map_or(0, |v| v.value).to_string(),
        ]);
    }
}
