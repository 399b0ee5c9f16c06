//! The command `erase`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use pushlark_store::{ItemKind, Mention};
use pushlark_xmpp::BareJid;
use serde_json::{Value, json};

use crate::output::{Colour, Format, Progress, confirm, print_json, say, tell, waiting};
use crate::retention::Retention;
use crate::scan::ScanPrice;
use crate::stack::{Stack, StackOptions};
use crate::user::parse_user;

/// Delete all data of a user, and print a receipt.
///
/// The receipt names what was deleted, and what expires by itself and when. The command can be repeated.
#[derive(Debug, Args)]
pub struct EraseOptions {
    /// The user.
    #[arg(value_parser = parse_user)]
    user: BareJid,
    /// Also search the whole table for items of others that name the user, such as the unread counters of their
    /// conversations, and delete these. The price is shown first.
    #[arg(long)]
    scan: bool,
    /// Delete without a question.
    #[arg(long)]
    yes: bool,
}

impl EraseOptions {
    /// Runs the command.
    pub async fn run(self, stack: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let Self { user, scan, yes } = self;
        let stack = Stack::find(stack).await?;
        let store = stack.store().await?;
        let expected = waiting("counting items", store.personal_items(&user)).await?.len() as u64;
        let price = match scan {
            true => Some(ScanPrice::of(&stack, &store).await?),
            false => None,
        };
        let told = price.as_ref().map(|price| format!(" {price}")).unwrap_or_default();
        if yes && let Some(price) = &price {
            tell(price);
        }
        confirm(&format!("All data of {user} will be deleted, {expected} items.{told}"), yes)?;
        // A backup made meanwhile has the data too, so this is read before the deletion.
        let retentions = waiting("reading retentions", Retention::of(&stack, scan)).await;

        let progress = Progress::start(Some(expected), "items");
        let erased: RefCell<BTreeMap<ItemKind, u64>> = RefCell::default();
        let left = store
            .erase_user(&user, |kind| {
                progress.add(1);
                *erased.borrow_mut().entry(kind).or_default() += 1;
            })
            .await?;
        drop(progress);
        let mentions: RefCell<BTreeMap<Mention, u64>> = RefCell::default();
        if let Some(price) = &price {
            let progress = Progress::start(Some(price.items()), "items searched");
            let found = |mention| *mentions.borrow_mut().entry(mention).or_default() += 1;
            store.erase_mentions(&user, |items| progress.add(items as u64), found).await?;
        }
        let receipt = Receipt {
            user,
            erased: erased.into_inner(),
            mentions: scan.then(|| mentions.into_inner()),
            left,
            retentions,
        };
        match format {
            Format::Json => print_json(&receipt.to_json())?,
            Format::Human => receipt.in_words().into_iter().try_for_each(say)?,
        }
        Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The receipt of an erasure.
struct Receipt {
    user: BareJid,
    erased: BTreeMap<ItemKind, u64>,
    /// The places in others' items, if they were searched.
    mentions: Option<BTreeMap<Mention, u64>>,
    /// The number of items that were stored during the erasure.
    left: usize,
    retentions: Vec<Retention>,
}

impl Receipt {
    fn to_json(&self) -> Value {
        let erased: BTreeMap<_, _> = self.erased.iter().map(|(kind, number)| (kind.as_str(), number)).collect();
        let retentions: Vec<_> = self.retentions.iter().map(Retention::to_json).collect();
        let mut json = json!({"user": self.user.as_str(), "deleted": erased, "stored_meanwhile": self.left,
            "expires": retentions});
        if let Some(mentions) = &self.mentions {
            let of = |is_kept: bool| -> BTreeMap<_, _> {
                let chosen = mentions.iter().filter(|(mention, _)| (**mention == Mention::Mute) == is_kept);
                chosen.map(|(mention, number)| (mention.as_str(), number)).collect()
            };
            json["deleted_of_others"] = json!(of(false));
            json["kept_of_others"] = json!(of(true));
        }
        json
    }

    fn in_words(&self) -> Vec<String> {
        let mut lines = vec![format!("Deleted of {}:", self.user)];
        let line = |name: &str, number: &u64| format!("  {number:>6} {name}");
        lines.extend(self.erased.iter().map(|(kind, number)| line(kind.as_str(), number)));
        if self.erased.is_empty() {
            lines.push("  nothing: the table has no data of the user".into());
        }
        if let Some(mentions) = &self.mentions {
            lines.push("Found in items of others:".into());
            for (mention, number) in mentions {
                let note = if *mention == Mention::Mute { " (kept: they are theirs)" } else { "" };
                lines.push(line(mention.as_str(), number) + note);
            }
            if mentions.is_empty() {
                lines.push("  nothing".into());
            }
        }
        if self.left > 0 {
            let text = format!("{} items were stored meanwhile: repeat the command once the user is gone.", self.left);
            lines.push(Colour::Red.paint(&text));
        }
        lines.push("Left, until they expire:".into());
        lines.extend(self.retentions.iter().map(|retention| format!("  {retention}")));
        lines
    }
}
