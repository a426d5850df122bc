//! The HTML of the page.

use super::curves::curves;
use super::gallery::{Gallery, Shown};
use super::html::{escaped, script_hash};
use super::tables;
use crate::failure::Outcome;
use crate::gathered::Gathered;
use crate::measures::{Baseline, Measures, REPLICATES, Summary};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page as HTML. The same results always give the same page. With a baseline, it has a table of differences.
///
/// # Errors
/// [`Failure::Run`](crate::Failure::Run) naming a picture or a file of masks that cannot be read.
pub fn page(measures: &Measures<'_>, baseline: Option<&Baseline>, shown: &Shown<'_>) -> Outcome<String> {
    let run = measures.run();
    let summary = Summary::new(measures, baseline, None)?;
    let title = escaped(&run.info.title);
    let (done, total) = (run.records.len(), run.total());
    // The page fetches nothing from elsewhere, and runs only its own script.
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {}; base-uri 'none'; form-action 'none'",
        script_hash(SCRIPT)
    );
    let mut parts = vec![format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>{title}</h1>\n{}</header>\n<main>\n",
        state(done, total)
    )];
    parts.push(section("results", "Results", &results(run, &summary)));
    if done > 0 {
        if let Some(baseline) = baseline {
            let table = tables::differences(run, &summary);
            let about = differences(run, baseline);
            parts.push(section("differences", "Differences", &format!("{about}{table}")));
        }
        let drawn = curves(run, &summary);
        if !drawn.is_empty() {
            let about = about_curves(&summary);
            parts.push(section("curves", "Curves", &format!("{about}<div class=\"charts\">{drawn}</div>")));
        }
        let gallery = Gallery::new(run, shown)?;
        parts.push(section("images", "Images", &images(run, shown, &gallery)));
        parts.push(section("masks", "Masks", &masks(run, &gallery)?));
        let table = tables::images(measures);
        let table = format!("<details><summary>Show the table of all images</summary>{table}</details>");
        parts.push(section("table", "Every image", &table));
    }
    parts.push(section("configurations", "Configurations", &configurations(run)?));
    parts.push(section("provenance", "Provenance", &tables::provenance(run)));
    parts.push(format!("</main>\n{VIEWER}<script>{SCRIPT}</script>\n</body>\n</html>\n"));
    Ok(parts.concat())
}

fn section(id: &str, title: &str, content: &str) -> String {
    format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{content}</section>\n"
    )
}

fn state(done: usize, total: usize) -> String {
    match done {
        0 => {
            format!("<p class=\"state partial\" role=\"status\">No image is finished yet, of {total}.</p>\n")
        }
        some if some < total => format!(
            "<p class=\"state partial\" role=\"status\">Not finished: {done} of {total} images. Means are over those.</p>\n"
        ),
        _ => format!("<p class=\"state\">All {total} images are finished.</p>\n"),
    }
}

fn results(run: &Gathered, summary: &Summary) -> String {
    let time = summary.machine.as_ref().map_or(String::new(), |machine| {
        let machine = escaped(machine);
        format!(
            " Time is the median over the images that {machine} made; other machines' times are left out."
        )
    });
    let note = format!(
        "<p>A line a point of the grid; a click on a column's title sorts by it. FLOPs are 2 × MAC of one sample in one \
         U-Net evaluation, the mean over the steps as they ran. PSNR, SSIM and L2 are distances to the unpruned image of the \
         same prompt, seed and sampling. Brackets: 95 % interval of the Bayesian bootstrap over N prompts ({REPLICATES} \
         replicates). An image equal to the unpruned one has an infinite PSNR, which is not in the mean. ◯: on the Pareto \
         front against FLOPs or time.{time}</p>\n"
    );
    format!("{note}{}", tables::points(run, summary))
}

/// What the table of differences shows.
fn differences(run: &Gathered, baseline: &Baseline) -> String {
    let name = match baseline {
        Baseline::Unpruned => "the unpruned point of the same sampling".into(),
        Baseline::Point(id) => {
            let point = run.info.points.iter().find(|point| point.id == *id);
            format!("<b>{}</b>", escaped(point.map_or(id, |point| &point.label)))
        }
    };
    format!(
        "<p>Each point against {name}, prompt by prompt, over the prompts that both have. Δ: the mean of the point's value \
         minus the baseline's. Wins: the share of prompts at which the point is better; a tie is half a win. Brackets: 95 % \
         intervals as above.</p>\n"
    )
}

/// What the curves show.
fn about_curves(summary: &Summary) -> String {
    let machine = summary
        .machine
        .as_deref()
        .map_or(String::new(), |machine| format!(" Times are of {}.", escaped(machine)));
    format!(
        "<p>Bars are the 95 % intervals of the table. A line follows one number that a grid entry varies; every other varied \
         option has lines of its own. Rings mark the Pareto front: no other point is cheaper and better.{machine}</p>\n"
    )
}

const NO_MASKS: &str = "<p>The run stored no masks. It stores those of the prompts that its configuration names in <code>masks</code>.</p>\n";

fn masks(run: &Gathered, gallery: &Gallery) -> Outcome<String> {
    let mut stored = 0;
    for finished in run.records.values() {
        stored += usize::from(finished.masks()?.is_some());
    }
    Ok(match (stored, gallery.masks.is_empty()) {
        (0, _) => NO_MASKS.into(),
        (_, true) => {
            format!("<p>Masks of {stored} images are stored, of none of the prompts shown here.</p>\n")
        }
        _ => format!(
            "<p>Pruned tokens are dark. Of the first, the middle and the last step with masks.</p>\n{}",
            gallery.masks
        ),
    })
}

fn images(run: &Gathered, shown: &Shown<'_>, gallery: &Gallery) -> String {
    format!(
        "<p>{} of {} prompts. Choose an image to compare it with the unpruned one. Sides are at most {} pixels here; larger \
         images were made smaller (means of pixels), figures are of the full ones.</p>\n{}",
        shown.prompts.len(),
        run.prompts.len(),
        shown.pixels,
        gallery.grid
    )
}

fn configurations(run: &Gathered) -> Outcome<String> {
    Ok(format!(
        "<p>What made each point, every option with its value.</p>\n{}\
         <details class=\"config\"><summary>The run's configuration as it was written</summary><pre>{}</pre></details>\n",
        tables::configurations(run)?,
        escaped(&run.config)
    ))
}

/// The before/after viewer. The script sets its pictures.
const VIEWER: &str = "<dialog id=\"viewer\" aria-labelledby=\"viewer-title\">\n\
    <form method=\"dialog\"><h2 id=\"viewer-title\"></h2><button>Close</button></form>\n\
    <div id=\"stage\"><img id=\"after\" alt=\"\"><img id=\"before\" alt=\"\"><span id=\"divider\"></span>\
    <span class=\"tag left\">unpruned</span><span class=\"tag right\">pruned</span></div>\n\
    <label>Share of the unpruned image <input id=\"share\" type=\"range\" min=\"0\" max=\"100\" value=\"50\"></label>\n\
    </dialog>\n";
