// The verbs of shrub, one per file, and what they share.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "cli/command.h"
#include "cli/output.h"
#include "shrub/shrub.h"
#include "shrub/vats.h"
#include "vat/adder.h"
#include "vat/lease.h"
#include "wedge/stat_cache.h"
#include "wedge/wedge.h"

namespace shrub_cli {

[[nodiscard]] cli::Command init_command();
[[nodiscard]] cli::Command trust_command();
[[nodiscard]] cli::Command add_command();
[[nodiscard]] cli::Command add_url_command();
[[nodiscard]] cli::Command url_for_command();
[[nodiscard]] cli::Command add_dir_command();
[[nodiscard]] cli::Command watch_command();
[[nodiscard]] cli::Command add_image_command();
[[nodiscard]] cli::Command add_trace_command();
[[nodiscard]] cli::Command sync_command();
[[nodiscard]] cli::Command verify_command();
[[nodiscard]] cli::Command ls_command();
[[nodiscard]] cli::Command cat_command();
[[nodiscard]] cli::Command status_command();
[[nodiscard]] cli::Command diff_command();
[[nodiscard]] cli::Command log_command();
[[nodiscard]] cli::Command fetch_command();
[[nodiscard]] cli::Command push_command();
[[nodiscard]] cli::Command mount_command();
[[nodiscard]] cli::Command mounts_command();
[[nodiscard]] cli::Command nbd_command();
[[nodiscard]] cli::Command boot_command();
[[nodiscard]] cli::Command tree_command();
[[nodiscard]] cli::Command sign_command();
[[nodiscard]] cli::Command doctor_command();
[[nodiscard]] cli::Command reachable_command();
[[nodiscard]] cli::Command is_live_command();
[[nodiscard]] cli::Command gc_command();

[[nodiscard]] shrub::UserSettings user_settings(const cli::Call& call, cli::Output& output);

/// The vats of a shrub, or those --vat names instead.
[[nodiscard]] shrub::Vats open_vats(const shrub::Shrub& shrub, const cli::Call& call, cli::Output& output);
/// … of which one can be written; usage if none can.
[[nodiscard]] shrub::Vats open_writable_vats(const shrub::Shrub& shrub, const cli::Call& call,
                                             cli::Output& output);

/// Warns of symlinks in a shrub, which are no vrefs, and of secrets that vrefs hold, and says how to get rid
/// of them.
void tell_oddities(const shrub::Shrub& shrub, const std::string& below, cli::Output& output);
/// The vat, if it can be written, remembers that this shrub uses it.
void note_served(vat::Vat& vat, const shrub::Shrub& shrub);

/// For what reads for long: nothing goes from the vats on this disk that was needed when it began.
[[nodiscard]] std::vector<vat::Lease> hold_leases(const shrub::Vats& vats);

/// With -v: what each peer was asked for and sent.
void report_peers(const shrub::Vats& vats, cli::Output& output);

/// --rev.
[[nodiscard]] cli::Option revision_option();

/// A shrub or a part of one: `path` with or without `@REV` behind it, or with --rev; else at revision
/// `otherwise`, or, if that is empty, as it lies in its directory.
struct NamedShrub {
  shrub::Shrub shrub;
  std::string below;  ///< relative to its root
};
[[nodiscard]] NamedShrub find_shrub(const std::string& path, const cli::Call& call,
                                    const std::string& otherwise = {});

/// A vref the user named, with or without .vref, `@REV` and --rev: the shrub it lies in and its entry.
struct NamedVref {
  shrub::Shrub shrub;
  std::string entry;
};
/// The vref that a verb writes: an @ in its path is one.
[[nodiscard]] NamedVref find_written(const std::string& path);
[[nodiscard]] NamedVref find_named(const std::string& path, const cli::Call& call,
                                   const std::string& otherwise = {});

/// A file, by its vref or its path in a tree.
struct NamedContent {
  std::optional<base::ObjectId> blob, recipe;
  std::string target;  ///< of a symlink, which has neither
};
/// Throws not_found, usage where a path is missing or too much. `entry`: its name in messages.
[[nodiscard]] NamedContent find_content(vat::BlobSource& source, const formats::Vref& vref,
                                        const std::optional<std::string>& path, const std::string& entry);

[[nodiscard]] unsigned jobs(const cli::Call& call);
/// --level, --jobs and --dry-run.
[[nodiscard]] vat::AddOptions add_options(const cli::Call& call);

/// What every add begins with: everything that can be refused before anything is stored. `argument`: the one
/// that names the vref.
struct Addition {
  NamedVref named;
  shrub::Vats vats;
  std::optional<formats::Vref> before;  ///< the vref that is there
  vat::AddOptions options;
  std::string time;                 ///< for the provenance
  std::optional<vat::Lease> lease;  ///< so that nothing that was added goes before the vref is there
  [[nodiscard]] vat::Vat& vat() const noexcept { return *vats.writable; }
};
[[nodiscard]] Addition begin_addition(const cli::Call& call, cli::Output& output,
                                      const std::string& argument = "VREF");
/// Ends an add: map and vref, with what is to be kept of the vref that was there, and says what was done.
/// `only_news`: nothing if the vref stays as it is. `provenance`: what is new in it.
void finish_addition(const Addition& addition, formats::Vref vref, const vat::AddSummary& summary,
                     cli::Output& output, bool only_news = false,
                     const formats::json::Object& provenance = {});

/// The chunker profile for an add: that of the vref's present recipe, else the vat's.
[[nodiscard]] chunker::Parameters profile_for(const std::optional<formats::Vref>& before,
                                              vat::BlobSource& source, const vat::Vat& writable);

/// One add of a directory. `only_news`: nothing is said if the vref stays as it is.
int add_dir(const cli::Call& call, cli::Output& output, bool only_news);
[[nodiscard]] std::vector<cli::Option> add_dir_options();

/// What is known of the files of this machine.
[[nodiscard]] std::unique_ptr<wedge::StatCache> open_stat_cache(base::ObjectFormat format);
/// Says of what file systems all files had to be read, as nothing vouches for them. Once, at the end of a
/// verb.
void tell_unvouched(const wedge::StatCache& cache, cli::Output& output);
/// --spot-check.
[[nodiscard]] cli::Option spot_check_option();
/// Its share of the tree in directory `top`, another each time; nothing if it is not given.
[[nodiscard]] wedge::SpotCheck spot_check(const cli::Call& call, wedge::StatCache& cache,
                                          const std::string& top);

/// --owners, --acls and --special, as far as this user may.
[[nodiscard]] std::vector<cli::Option> fidelity_options();
/// Whether there is no shrub at `root` any more; false if that cannot be looked at.
[[nodiscard]] bool is_gone(const std::string& root);
/// Says which entries of the wedge belong to shrubs that are gone, but for those in `present`.
void tell_left_over(const wedge::Wedge& wedge, const std::string& place, const std::set<std::string>& present,
                    cli::Output& output);
[[nodiscard]] wedge::Fidelity fidelity(const cli::Call& call, cli::Output& output);

/// A size and a path for a person or a record.
void print_difference(cli::Output& output, const std::string& entry, const wedge::Difference& difference);

}  // namespace shrub_cli
