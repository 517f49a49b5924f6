#include "formats/table/table_set.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/object_id.h"

namespace formats {
namespace {

using base::Category;
using base::Error;

constexpr std::size_t kMaxList = std::size_t{1} << 20;
constexpr std::size_t kNameSize = 64;
/// A table is merged with those added after it when they hold at least half as much.
constexpr std::uint64_t kGrowth = 2;

bool is_table_name(std::string_view name) {
  return name.size() == kNameSize && base::from_hex(name).has_value();
}

}  // namespace

/// Records on their way into a merge.
struct TableSet::Source {
  Table* table = nullptr;  ///< nullptr: `records`
  base::Bytes records;
  std::size_t record_size;
  std::uint64_t at, end;
  base::Buffer current = {};

  bool read() {
    if (at == end) return false;
    const auto record = table != nullptr
                            ? table->record(at)
                            : records.subspan(static_cast<std::size_t>(at) * record_size, record_size);
    current.assign(record.begin(), record.end());
    ++at;
    return true;
  }
};

/// Of equal keys, those of later sources first.
void TableSet::merge(std::vector<Source> sources, std::size_t key_size,
                     const std::function<bool(base::Bytes)>& visit) {
  std::erase_if(sources, [](Source& source) { return !source.read(); });
  while (!sources.empty()) {
    auto least = sources.end() - 1;
    for (auto source = sources.end() - 1; source != sources.begin();)
      if (--source; std::memcmp(source->current.data(), least->current.data(), key_size) < 0) least = source;
    if (!visit(least->current)) return;
    if (!least->read()) sources.erase(least);
  }
}

TableSet::TableSet(const TableShape& shape, std::optional<base::UniqueFd> directory)
    : shape_(shape), directory_(std::move(directory)) {
  load();
}

std::vector<std::string> TableSet::read_list(int directory) {
  std::vector<std::string> names;
  const auto found = base::find_file(directory, kList, kMaxList);
  const std::string text = found.value_or(std::string());
  for (std::string_view rest = text; rest.size() > kNameSize; rest.remove_prefix(kNameSize + 1))
    if (is_table_name(rest.substr(0, kNameSize)) && rest[kNameSize] == '\n')
      names.emplace_back(rest.substr(0, kNameSize));
  return names;
}

std::shared_ptr<Table> TableSet::open(const std::string& name) {
  auto file = base::find_regular_at(directory_->get(), name);
  if (!file) return nullptr;
  const auto size = base::file_size(file->get());
  const auto shared = std::make_shared<base::UniqueFd>(std::move(*file));  // shared: a function is copied
  return std::make_shared<Table>(
      shape_,
      [shared](std::uint64_t offset, base::MutableBytes buffer) {
        return base::read_exact_at(shared->get(), offset, buffer);
      },
      size, blocks_);
}

void TableSet::load() {
  if (!directory_) return;
  for (auto names = read_list(directory_->get());;) {
    load(names);
    auto again = read_list(directory_->get());
    if (again == names) return;  // else tables of the list may have been merged away before they were opened
    names = std::move(again);
  }
}

void TableSet::load(const std::vector<std::string>& names) {
  std::vector<Entry> tables;
  for (const auto& name : names) {
    const auto known =
        std::find_if(tables_.begin(), tables_.end(), [&](const Entry& entry) { return entry.name == name; });
    try {
      auto table = known != tables_.end() ? known->table : open(name);
      if (table != nullptr) tables.push_back({name, std::move(table)});
    } catch (const Error& error) {
      if (error.category() != Category::corrupt) throw;  // else what it held has to be added again
    }
  }
  tables_ = std::move(tables);
}

void TableSet::add(base::Bytes records, base::Bytes extra, const TableMerge& how) {
  load();
  std::uint64_t total = records.size() / shape_.record_size;
  auto first = tables_.end();
  while (first != tables_.begin() && (first - 1)->table->count() <= kGrowth * total)
    total += (--first)->table->count();

  std::vector<Source> sources;
  base::Buffer extras;
  for (auto entry = first; entry != tables_.end(); ++entry) {
    sources.push_back({entry->table.get(), {}, shape_.record_size, 0, entry->table->count()});
    base::append(extras, entry->table->extra());
  }
  sources.push_back({nullptr, records, shape_.record_size, 0, records.size() / shape_.record_size});
  base::append(extras, extra);
  if (how.tidy_extra) extras = how.tidy_extra(extras);

  Entry made;
  write(made, [&](const base::ByteSink& sink) {
    TableWriter writer(shape_, total, sink);
    base::Buffer last;
    merge(std::move(sources), shape_.key_size, [&](base::Bytes record) {
      if (how.keep && !how.keep(record)) return true;
      if (how.newest_only) {
        if (!last.empty() && std::memcmp(last.data(), record.data(), shape_.key_size) == 0) return true;
        last.assign(record.begin(), record.end());
      }
      writer.add(record);
      return true;
    });
    writer.finish(extras);
  });
  tables_.erase(first, tables_.end());
  tables_.push_back(std::move(made));
  write_list();
}

void TableSet::write(Entry& entry, const std::function<void(const base::ByteSink&)>& fill) {
  if (!directory_) {
    const auto file = std::make_shared<base::Buffer>();  // shared: a function is copied
    fill([&](base::Bytes bytes) { base::append(*file, bytes); });
    entry.table = std::make_shared<Table>(
        shape_,
        [file](std::uint64_t offset, base::MutableBytes buffer) {
          if (offset + buffer.size() > file->size()) return false;
          std::memcpy(buffer.data(), file->data() + offset, buffer.size());
          return true;
        },
        file->size(), blocks_);
    return;
  }
  base::remove_leftovers(directory_->get());
  base::AtomicFile file(directory_->get(), 0444);
  base::Sha256 hash;
  base::Buffer pending;
  const auto flush = [&] {
    file.write(pending);
    hash.update(pending);
    pending.clear();
  };
  fill([&](base::Bytes bytes) {
    base::append(pending, bytes);
    if (pending.size() >= (std::size_t{1} << 18)) flush();
  });
  flush();
  const auto digest = hash.finish();
  entry.name = base::to_hex(digest);
  (void)file.publish(directory_->get(), entry.name, base::AtomicFile::Existing::replace,
                     base::AtomicFile::Durability::losable);
  entry.table = open(entry.name);
  if (entry.table == nullptr) throw Error(Category::corrupt, "table: gone as soon as it was written");
}

void TableSet::write_list() {
  if (!directory_) return;
  std::string list;
  for (const auto& entry : tables_) list += entry.name + "\n";
  base::write_file_atomically(directory_->get(), kList, base::as_bytes(list), 0666,
                              base::AtomicFile::Durability::losable);
  for (const auto& name : base::list_directory(directory_->get()))
    if (is_table_name(name) && list.find(name) == std::string::npos)
      (void)::unlinkat(directory_->get(), name.c_str(), 0);
}

void TableSet::visit_from(base::Bytes key, const std::function<bool(base::Bytes)>& visit) {
  std::vector<Source> sources;
  for (const auto& entry : tables_)
    sources.push_back(
        {entry.table.get(), {}, shape_.record_size, entry.table->lower_bound(key), entry.table->count()});
  merge(std::move(sources), shape_.key_size, visit);
}

std::uint64_t TableSet::count() const noexcept {
  std::uint64_t count = 0;
  for (const auto& entry : tables_) count += entry.table->count();
  return count;
}

std::vector<base::Bytes> TableSet::extras() const {
  std::vector<base::Bytes> all;
  for (const auto& entry : tables_) all.push_back(entry.table->extra());
  return all;
}

}  // namespace formats
