#include "cli/peers.h"

#include <fcntl.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "cli/environment.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/numbers.h"
#include "vat/far_verb.h"

namespace cli {
namespace {

using base::Category;
using base::Error;

constexpr std::size_t kMaxIni = std::size_t{1} << 20;

std::string home() {
  return find_variable("HOME").value_or("");
}

std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

/// The keys of one section of an INI file; none if the file cannot be read.
std::map<std::string, std::string> ini_section(const std::string& file, const std::string& section) {
  std::map<std::string, std::string> values;
  if (file.empty() || ::access(file.c_str(), R_OK) != 0) return values;
  const auto text = base::read_file(AT_FDCWD, file, kMaxIni);
  bool inside = false;
  for (std::string_view rest = text; !rest.empty();) {
    const auto line = trimmed(base::take_field(rest, '\n'));
    if (line.starts_with('[')) inside = trimmed(line.substr(1, line.find(']') - 1)) == section;
    const auto equals = line.find('=');
    if (!inside || line.starts_with('#') || equals == std::string_view::npos) continue;
    values[std::string(trimmed(line.substr(0, equals)))] = trimmed(line.substr(equals + 1));
  }
  return values;
}

void add_aws(vat::PeerAddress& address) {
  const auto profile = find_variable("AWS_PROFILE").value_or("default");
  const auto file = [](const char* variable, const char* name) {
    return find_variable(variable).value_or(home().empty() ? "" : home() + "/.aws/" + name);
  };
  const auto secrets = ini_section(file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), profile);
  const auto config =
      ini_section(file("AWS_CONFIG_FILE", "config"), profile == "default" ? profile : "profile " + profile);
  const auto either = [&](std::initializer_list<const char*> variables, const char* key) -> std::string {
    for (const auto* name : variables)
      if (const auto value = find_variable(name)) return *value;
    for (const auto* values : {&secrets, &config})
      if (const auto known = values->find(key); known != values->end()) return known->second;
    return {};
  };
  // A key from the environment goes with the secret and token from there, never with those of a file.
  if (const auto key = find_variable("AWS_ACCESS_KEY_ID")) {
    address.user = *key;
    address.password = find_variable("AWS_SECRET_ACCESS_KEY").value_or("");
    address.token = find_variable("AWS_SESSION_TOKEN").value_or("");
  } else {
    address.user = either({}, "aws_access_key_id");
    address.password = either({}, "aws_secret_access_key");
    address.token = either({}, "aws_session_token");
  }
  if (address.region.empty()) address.region = either({"AWS_REGION", "AWS_DEFAULT_REGION"}, "region");
  if (address.endpoint.empty())
    address.endpoint = either({"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}, "endpoint_url");
}

void add_ssh(vat::PeerAddress& address) {
  const auto directory = home() + "/.ssh/";
  if (const auto key = find_variable("VAT_SSH_KEY")) {
    address.ssh_private_key = *key;
  } else {
    for (const auto* name : {"id_ed25519", "id_ecdsa", "id_rsa"})
      if (address.ssh_private_key.empty() && ::access((directory + name).c_str(), R_OK) == 0)
        address.ssh_private_key = directory + name;
  }
  address.known_hosts = find_variable("VAT_SSH_KNOWN_HOSTS").value_or(directory + "known_hosts");
}

}  // namespace

Option limit_rate_option() {
  return {"--limit-rate", "RATE", "fetch and send at most so many bytes a second: 500k, 20M"};
}

Option retry_for_option() {
  return {
      "--retry-for", "DURATION",
      "how long a host that has no time (429, 503) is waited for since it last sent something (default 60s)"};
}

std::vector<Option> fetch_options() {
  return {limit_rate_option(),
          {"--offline", "", "ask nobody: use what is on this disk, the cache too"},
          retry_for_option(),
          {"--from", "URL", "a vat to use besides the others", Completion::directory, true}};
}

vat::PeerOptions peer_options(const Call& call, Output& output) {
  vat::PeerOptions options;
  options.cache_dir = cache_directory();
  if (const auto size = find_variable("VAT_CACHE_SIZE"))
    options.cache_size = parse_size("VAT_CACHE_SIZE", *size);
  if (call.has("--limit-rate")) options.rate = parse_size("--limit-rate", call.get("--limit-rate"));
  for (const auto* name : {"SSL_CERT_FILE", "CURL_CA_BUNDLE"})
    if (auto file = find_variable(name)) options.certificates = std::move(*file);
  const auto proxy = [](const char* lower, const char* upper) {
    const auto value = find_variable(lower);
    return value ? *value : find_variable(upper).value_or(std::string());
  };
  // HTTP_PROXY is not read, as a server sets it to what a request says (CGI).
  options.proxies = {proxy("http_proxy", "http_proxy"), proxy("https_proxy", "HTTPS_PROXY"),
                     proxy("all_proxy", "ALL_PROXY"), proxy("no_proxy", "NO_PROXY")};
  options.threads = static_cast<unsigned>(call.number("--jobs", 0, 1, 256));
  options.retry_for = std::chrono::seconds(
      call.duration("--retry-for", static_cast<std::uint64_t>(options.retry_for.count())));
  options.on_note = [&output](const std::string& note) { output.warning(note); };
  return options;
}

void add_credentials(vat::PeerAddress& address) {
  if (address.url.starts_with("s3://")) add_aws(address);
  if (address.url.starts_with("ssh://") || address.url.starts_with("sftp://")) add_ssh(address);
}

vat::PeerAddress address_of(const std::string& url) {
  vat::PeerAddress address;
  address.url = url;
  address.may_be_local = true;  // the user named it
  add_credentials(address);
  return address;
}

int run_there(const std::string& url, std::vector<std::string> words, const std::vector<Option>& options,
              const Call& call, Output& output, std::string_view input) {
  auto known = options;
  for (auto& option : common_options()) known.push_back(std::move(option));
  for (const auto& option : known) {
    const auto name = long_name(option);
    if (!call.has(name) || name == "--progress") continue;
    if (option.value.empty()) words.push_back(name);
    for (const auto& value : call.all(name)) words.push_back(name + "=" + value);
  }
  std::string errors;
  const int code = vat::run_there(
      address_of(url), {words, input}, [&](base::Bytes bytes) { output.write(bytes); }, errors);
  output.finish();
  for (std::string_view rest = errors; !rest.empty();) {
    auto line = base::take_field(rest, '\n');
    if (line.starts_with("vat: ")) line.remove_prefix(5);
    output.warning(url + ": " + std::string(line));
  }
  return code;
}

std::uint64_t parse_size(const std::string& what, const std::string& text) {
  const auto digits = text.find_first_not_of("0123456789.");
  const auto number = text.substr(0, digits);
  const auto unit = digits == std::string::npos ? std::string() : text.substr(digits);
  constexpr std::string_view kUnits = "kMGT";
  const auto power = unit.empty() ? std::string_view::npos : kUnits.find(unit == "K" ? 'k' : unit[0]);
  const auto dot = number.find('.');
  const auto whole = base::parse_decimal(number.substr(0, dot));
  const auto part = dot == std::string::npos ? std::optional<std::uint64_t>(0)
                                             : base::parse_decimal(number.substr(dot + 1));
  if (!whole || !part || unit.size() > 1 || (!unit.empty() && power == std::string_view::npos) ||
      *whole > (1U << 30))
    throw Error(Category::usage, what + ": '" + text + "' is not a size such as 500, 64k, 20M or 1.5G");
  const double factor = unit.empty() ? 1 : std::pow(1024.0, static_cast<double>(power) + 1);
  const double fraction = dot == std::string::npos ? 0 : std::stod("0." + number.substr(dot + 1));
  return static_cast<std::uint64_t>((static_cast<double>(*whole) + fraction) * factor);
}

std::vector<base::ScratchPlace> scratch_places() {
  std::vector<base::ScratchPlace> places;
  if (const auto own = find_variable("TMPDIR")) places.push_back({*own, "TMPDIR"});
  if (const auto cache = cache_directory(); !cache.empty()) {
    try {
      base::make_directories(cache);
    } catch (const Error&) {  // said when no other place will do
    }
    places.push_back({cache, find_variable("VAT_CACHE_DIR") ? "VAT_CACHE_DIR" : "the cache"});
  }
  if (places.empty()) places.push_back({"/tmp", "neither TMPDIR nor HOME is set"});
  return places;
}

std::vector<base::ScratchPlace> scratch_places(const std::string& wedge) {
  auto places = scratch_places();
  places.push_back({wedge + "/.shrub/tmp", "the wedge"});
  return places;
}

Scratch::Scratch()
    : path_(base::use_scratch(scratch_places(), [](const base::ScratchPlace& place) {
        return base::make_scratch_directory(place.path);
      })) {}

Scratch::Scratch(const base::ScratchPlace& place) : path_(base::make_scratch_directory(place.path)) {}

Scratch::~Scratch() {
  try {
    base::remove_tree(AT_FDCWD, path());
  } catch (const std::exception&) {  // it is in a place for what can be lost
  }
}

LocalTarget::LocalTarget(const std::string& path, const vat::BlobSource& like,
                         const chunker::Parameters& parameters, bool dry_run,
                         const vat::PeerOptions& options) {
  std::error_code unknown;
  const bool is_there = std::filesystem::exists(path, unknown) || unknown;
  if (!is_there && dry_run) scratch_.emplace();
  const auto place = scratch_ ? scratch_->path() + "/vat" : path;
  if (!is_there) vat::Vat::create(place, like.object_format(), parameters);
  vat_ = vat::Vat::open(place, {options.cache_dir, options.on_note});
}

}  // namespace cli
