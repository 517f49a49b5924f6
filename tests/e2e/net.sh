# Sourced by the end-to-end tests that need servers: starts them on loopback, stops them by pid.
# After start_X, $url is where the directory is served, $log the file with one line a request.
servers=''
stop_servers() {
  for pid in $servers; do kill "$pid" 2>/dev/null || true; done
  for pid in $servers; do wait "$pid" 2>/dev/null || true; done
  servers=''
}
trap 'stop_servers; chmod -R u+rwX "$work" 2>/dev/null; rm -rf "$work"' EXIT
number=0

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
# wait_for_port PORT: until something listens there.
# wait_for_port PORT [SECONDS]
wait_for_port() {
  python3 - "$1" "${2:-15}" <<'EOF' || fail "no server on port $1: $(tail -3 "$server"/*out* 2>/dev/null)"
import socket, sys, time
for _ in range(20 * int(sys.argv[2])):
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1).close()
        sys.exit(0)
    except OSError:
        time.sleep(0.05)
sys.exit(1)
EOF
}
begin_server() {
  number=$((number + 1))
  server="$work/server$number"
  mkdir -p "$server"
  log="$server/log"
  : >"$log"
}
# need PROGRAM: skips the test, loudly, where it is not installed.
need() {
  command -v "$1" >/dev/null 2>&1 || { echo "SKIPPED: $(basename "$0"): $1 is not installed" >&2; exit 77; }
}
# start_evil DIR MODE [OPTIONS]: see evil.py
start_evil() {
  begin_server
  "$here/evil.py" "$@" --log "$log" >"$server/port" 2>"$server/err" &
  pid=$!
  servers="$servers $pid"
  tries=0
  until [ -s "$server/port" ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || fail "evil.py did not start: $(cat "$server/err")"
    sleep 0.05
  done
  url=http://127.0.0.1:$(cat "$server/port")
}
start_good() { start_evil "$1" good; }
# start_nginx DIR [FLAGS OF listen [DIRECTIVES OF server]]
start_nginx() {
  begin_server
  port=$(free_port)
  cat >"$server/conf" <<EOF
daemon off; pid $server/pid; error_log $server/error; worker_processes 1;
$([ "$(id -u)" != 0 ] || echo 'user root;')
events { worker_connections 512; }
http {
  log_format short '\$status \$body_bytes_sent \$request_uri \$http_range \$server_protocol \$connection'; access_log $log short;
  client_body_temp_path $server/1; proxy_temp_path $server/2; fastcgi_temp_path $server/3; uwsgi_temp_path $server/4;
  scgi_temp_path $server/5; sendfile on; keepalive_requests 100000;
  server { listen 127.0.0.1:$port ${2:-}; root $1; ${3:-} }
}
EOF
  nginx -c "$server/conf" >"$server/out" 2>&1 &
  servers="$servers $!"
  wait_for_port "$port"
  url=http://127.0.0.1:$port
}
# start_python DIR: python3's own server, which knows no ranges.
start_python() {
  begin_server
  port=$(free_port)
  python3 -m http.server --bind 127.0.0.1 --directory "$1" "$port" >"$server/out" 2>"$log" &
  servers="$servers $!"
  wait_for_port "$port"
  url=http://127.0.0.1:$port
}
# start_apache DIR
start_apache() {
  begin_server
  port=$(free_port)
  modules=/usr/lib/apache2/modules
  cat >"$server/conf" <<EOF
ServerRoot $server
PidFile $server/pid
Listen 127.0.0.1:$port
ServerName localhost
LoadModule mpm_event_module $modules/mod_mpm_event.so
LoadModule authz_core_module $modules/mod_authz_core.so
LoadModule mime_module $modules/mod_mime.so
TypesConfig /dev/null
AddEncoding x-gzip .gz
ErrorLog $server/error
LogFormat "%>s %B %U %{Range}i" short
CustomLog $log short
DocumentRoot $1
$([ "$(id -u)" != 0 ] || printf 'User root\nGroup root\n')
EOF
  sed -i '/^User root/d; /^Group root/d' "$server/conf"
  apache2 -X -f "$server/conf" >"$server/out" 2>&1 &
  servers="$servers $!"
  wait_for_port "$port"
  url=http://127.0.0.1:$port
}
requests() { grep -c . "$log" || true; }
# body_bytes: of all answers in the log
# start_nginx_tls DIR: with a certificate that $certificates (a file) makes known; HTTP/2.
start_nginx_tls() {
  certificates=$work/tls.crt
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$work/tls.key" -out "$certificates" -days 2 \
    -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 2>/dev/null
  start_nginx "$1" 'ssl http2' "ssl_certificate $certificates; ssl_certificate_key $work/tls.key; ${2:-}"
  url=https${url#http}
}
body_bytes() { awk '{ n += $2 } END { print n + 0 }' "$log"; }
# start_sshd [LINE OF sshd_config]: any path of this machine, for $sshkey; $knownhosts lists its host key. As $sshuser@127.0.0.1 port $port.
start_sshd() {
  begin_server
  port=$(free_port)
  sshuser=$(id -un)
  ssh-keygen -q -t ed25519 -N '' -f "$server/host"
  [ -n "${sshkey:-}" ] || { sshkey=$work/id_ed25519 && ssh-keygen -q -t ed25519 -N '' -f "$sshkey"; }
  cp "$sshkey.pub" "$server/authorized"
  cat >"$server/conf" <<EOF
Port $port
ListenAddress 127.0.0.1
HostKey $server/host
PidFile $server/pid
AuthorizedKeysFile $server/authorized
PasswordAuthentication no
StrictModes no
UsePAM no
PermitRootLogin yes
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
AcceptEnv *
${1:-}
EOF
  mkdir -p /run/sshd 2>/dev/null || true
  "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f "$server/conf" >"$server/out" 2>"$log" &
  servers="$servers $!"
  wait_for_port "$port"
  knownhosts=$server/known_hosts
  printf '[127.0.0.1]:%s %s\n' "$port" "$(cut -d' ' -f1,2 "$server/host.pub")" >"$knownhosts"
  url=ssh://$sshuser@127.0.0.1:$port
}
# start_swift: an S3 service (OpenStack Swift with its s3api) with an empty bucket, "bucket"; sets $url and the AWS variables.
start_swift() {
  begin_server
  SWIFT_DIR=$server/etc
  export SWIFT_DIR
  mkdir -p "$SWIFT_DIR" "$server/node/d1"
  account=$(free_port) container=$(free_port) object=$(free_port) memcached=$(free_port) port=$(free_port)
  printf '[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n[storage-policy:0]\nname = gold\ndefault = yes\n' >"$SWIFT_DIR/swift.conf"
  for kind in account container object; do
    eval "at=\$$kind"
    (cd "$SWIFT_DIR" && swift-ring-builder $kind.builder create 4 1 1 && swift-ring-builder $kind.builder add "r1z1-127.0.0.1:$at/d1" 1 &&
      swift-ring-builder $kind.builder rebalance) >"$server/ring-$kind" 2>&1
    cat >"$SWIFT_DIR/$kind.conf" <<EOF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $at
workers = 0
user = $(id -un)
swift_dir = $SWIFT_DIR
devices = $server/node
mount_check = false
log_address = /nowhere
[pipeline:main]
pipeline = $kind-server
[app:$kind-server]
use = egg:swift#$kind
EOF
    swift-$kind-server "$SWIFT_DIR/$kind.conf" >"$server/$kind.out" 2>&1 &
    servers="$servers $!"
  done
  memcached -l 127.0.0.1 -p "$memcached" -u "$(id -un)" -U 0 >"$server/memcached.out" 2>&1 &
  servers="$servers $!"
  cat >"$SWIFT_DIR/proxy.conf" <<EOF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
workers = 0
user = $(id -un)
swift_dir = $SWIFT_DIR
log_address = /nowhere
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk tempurl s3api tempauth slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:$memcached
EOF
  for filter in catch_errors gatekeeper healthcheck listing_formats bulk tempurl slo dlo versioned_writes symlink; do
    printf '[filter:%s]\nuse = egg:swift#%s\n' $filter $filter >>"$SWIFT_DIR/proxy.conf"
  done
  swift-proxy-server "$SWIFT_DIR/proxy.conf" >"$server/proxy.out" 2>&1 &
  servers="$servers $!"
  for at in $account $container $object $memcached $port; do wait_for_port "$at"; done
  unset AWS_CA_BUNDLE AWS_PROFILE AWS_SESSION_TOKEN || true
  export AWS_ACCESS_KEY_ID=test:tester AWS_SECRET_ACCESS_KEY=testing AWS_ENDPOINT_URL_S3="http://127.0.0.1:$port" AWS_REGION=us-east-1
  s3 PUT "" || fail "no bucket: $(cat "$server/s3.out")"
  url=s3://bucket
}
# s3 METHOD KEY [CURL OPTIONS]: one signed request to the bucket.
s3() {
  method=$1 key=$2
  shift 2
  curl -sS -f -X "$method" --aws-sigv4 aws:amz:us-east-1:s3 -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "$@" \
    "http://$(printf %s "$AWS_ACCESS_KEY_ID" | sed 's/:/%3A/'):$AWS_SECRET_ACCESS_KEY@${AWS_ENDPOINT_URL_S3#http://}/bucket/$key" \
    >"$server/s3.out" 2>&1
}
