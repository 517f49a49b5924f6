#include "cli/environment.h"

#include <cstdlib>
#include <ctime>

#include "formats/base/error.h"
#include "formats/base/numbers.h"

namespace cli {

std::optional<std::string> find_variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

namespace {

std::string user_directory(const char* variable, const std::string& below_home) {
  const auto own = find_variable(variable), home = find_variable("HOME");
  if (own && own->starts_with('/')) return *own + "/vat";
  if (home && home->starts_with('/')) return *home + below_home + "/vat";
  return {};
}

}  // namespace

std::string cache_directory() {
  if (const auto own = find_variable("VAT_CACHE_DIR")) {
    if (own->starts_with('/')) return *own;
    throw base::Error(base::Category::usage, "VAT_CACHE_DIR: '" + *own + "' is not an absolute path");
  }
  return user_directory("XDG_CACHE_HOME", "/.cache");
}

std::string config_directory() {
  return user_directory("XDG_CONFIG_HOME", "/.config");
}

std::int64_t current_time() {
  const auto fixed = find_variable("SOURCE_DATE_EPOCH");
  if (!fixed) return std::time(nullptr);
  const auto seconds = base::parse_signed(*fixed);
  if (!seconds)
    throw base::Error(base::Category::usage, "SOURCE_DATE_EPOCH: '" + *fixed + "' is not a number");
  return *seconds;
}

std::string format_time(std::int64_t seconds) {
  const std::time_t when = seconds;
  std::tm parts{};
  char text[40];
  if (::gmtime_r(&when, &parts) == nullptr ||
      std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
    throw base::Error(base::Category::usage, "SOURCE_DATE_EPOCH is out of range");
  return text;
}

std::optional<std::int64_t> parse_time(const std::string& text) {
  std::tm parts{};
  const char* end = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  if (end == nullptr || *end != '\0') return std::nullopt;
  return ::timegm(&parts);
}

}  // namespace cli
