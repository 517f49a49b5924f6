# Sourced after net.sh by the long tests: an S3 service by Ceph, all of it on loopback and below one directory.

# start_radosgw: with an empty bucket, "bucket"; sets $url and the AWS variables.
start_radosgw() {
  begin_server
  ceph=$server
  fsid=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
  monitor=$(free_port) port=$(free_port)
  mkdir -p "$ceph/mon" "$ceph/osd" "$ceph/mgr" "$ceph/rgw" "$ceph/run"
  CEPH_CONF=$ceph/ceph.conf
  export CEPH_CONF
  cat >"$CEPH_CONF" <<EOC
[global]
fsid = $fsid
mon host = v2:127.0.0.1:$monitor/0
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = $ceph/keyring
run dir = $ceph/run
admin socket = $ceph/run/\$name.sock
pid file =
log file = $ceph/\$name.log
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd pool default pg num = 4
[mon.a]
mon data = $ceph/mon
[mgr.x]
mgr data = $ceph/mgr
[osd.0]
osd data = $ceph/osd
osd objectstore = bluestore
bluestore block size = 4294967296
[client.rgw.a]
rgw data = $ceph/rgw
rgw frontends = beast endpoint=127.0.0.1:$port
EOC
  {
    ceph-authtool -C "$ceph/keyring"
    ceph-authtool "$ceph/keyring" --gen-key -n mon. --cap mon 'allow *'
    ceph-authtool "$ceph/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' --cap mds 'allow *'
    ceph-authtool "$ceph/keyring" --gen-key -n mgr.x --cap mon 'allow profile mgr' --cap osd 'allow *' --cap mds 'allow *'
    ceph-authtool "$ceph/keyring" --gen-key -n client.rgw.a --cap mon 'allow rw' --cap osd 'allow rwx' --cap mgr 'allow rw'
    ceph-authtool "$ceph/keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' --cap mgr 'allow profile osd'
    monmaptool --create --addv a "[v2:127.0.0.1:$monitor]" --fsid "$fsid" "$ceph/monmap"
    ceph-mon --mkfs -i a --monmap "$ceph/monmap" --keyring "$ceph/keyring"
  } >"$ceph/begin" 2>&1 || fail "ceph: $(tail -3 "$ceph/begin")"
  ceph-mon -f -i a >"$ceph/mon.out" 2>&1 &
  servers="$! $servers"
  wait_for_port "$monitor"
  {
    printf '{"cephx_secret": "%s"}' "$(ceph-authtool "$ceph/keyring" -p -n osd.0)" | timeout 60 ceph osd new "$osd" -i -
    ceph-osd --mkfs -i 0 --osd-uuid "$osd" --keyring "$ceph/keyring"
  } >>"$ceph/begin" 2>&1 || fail "ceph: $(tail -3 "$ceph/begin")"
  ceph-osd -f -i 0 >"$ceph/osd.out" 2>&1 &
  servers="$! $servers"
  ceph-mgr -f -i x >"$ceph/mgr.out" 2>&1 &
  servers="$! $servers"
  timeout 120 radosgw-admin user create --uid=tester --display-name=tester --access-key=tester --secret-key=testing >>"$ceph/begin" 2>&1 ||
    fail "ceph: $(tail -3 "$ceph/begin")"
  radosgw -f -n client.rgw.a >"$ceph/rgw.out" 2>&1 &
  servers="$! $servers"
  wait_for_port "$port" 90
  unset AWS_CA_BUNDLE AWS_PROFILE AWS_SESSION_TOKEN || true
  export AWS_ACCESS_KEY_ID=tester AWS_SECRET_ACCESS_KEY=testing AWS_ENDPOINT_URL_S3="http://127.0.0.1:$port" AWS_REGION=us-east-1
  s3 PUT "" || fail "no bucket: $(cat "$server/s3.out")"
  url=s3://bucket
}
