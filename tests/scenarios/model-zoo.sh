#!/usr/bin/env bash
# A team with many fine-tunes of one base in one place: with Git and without, a new member, two people at once, a
# teammate who forgot to install, a store that is damaged, and what it all takes.
. "$(dirname "$0")/begin.sh"
set -x

git theta install
store=$PWD/zoo

# The base, and models by several people, without Git
thetastore init "$store"
thetastore put "$store/base" "$MODEL" -m 'as released'
for round in $(seq "$ROUNDS"); do
  train "$round" 0.0005 "$MODEL" "tune-$round.safetensors"
  thetastore put "$store/team/tune-$round" "tune-$round.safetensors" -m "tune $round"
done
thetastore ls "$store"
thetastore stats "$store"
thetastore put "$store/team/tune-1" tune-1.safetensors
train 50 0.0005 tune-1.safetensors tune-1b.safetensors 5
thetastore put "$store/team/tune-1" tune-1b.safetensors -m 'one layer more' --as tune-1.safetensors
thetastore log "$store/team/tune-1"
thetastore tag "$store/team/tune-1@v2" prod
thetastore get "$store/team/tune-1@prod" --to fetched.safetensors
same fetched.safetensors tune-1b.safetensors
thetastore get "$store/team/tune-1@v1" --tensors 'encoder.layer.5.*' --to layer.safetensors
thetastore show "$store/team/tune-1@prod" | head -n 12
refused thetastore get "$store/team/tune-9"
refused thetastore cp "$store/team/tune-1@prod" "$PWD/mirror"
thetastore init "$PWD/mirror"
thetastore cp "$store/team/tune-1@prod" "$PWD/mirror"
thetastore verify "$PWD/mirror"

# The same with Git: one repository, a directory for each model, two people
git init -q --bare host.git
git init -q ada && cd ada
git theta track '*.safetensors'
git config --file .thetaconfig theta.url ../weights
mkdir base && cp "$MODEL" base/model.safetensors
git add . && git commit -q -m 'the base'
git remote add origin ../host.git
git push -q -u origin main
cd .. && git clone -q host.git ben
for round in $(seq "$ROUNDS"); do
  for who in ada ben; do
    if [ "$who" = ada ]; then seed="7$round"; else seed="8$round"; fi # other weights each
    mkdir -p "$who/$who-$round"
    train "$seed" 0.0005 "$MODEL" "$who/$who-$round/model.safetensors"
    git -C "$who" add .
    git -C "$who" commit -q -m "$who $round"
  done
done
git -C ada push -q
refused git -C ben push -q # Git's own: ada was first
git -C ben pull -q --rebase
git -C ben push -q
git -C ada pull -q
cmp ada/ben-1/model.safetensors ben/ben-1/model.safetensors
git -C ada theta du | head -n 8
git -C ada theta ls-files

# A new member needs one of the models
GIT_THETA_SKIP_SMUDGE=1 git clone -q host.git cem && cd cem
git config theta.fetchInclude 'ben-1/*'
git theta pull
git theta status
same ben-1/model.safetensors ../ben/ben-1/model.safetensors
cd ..

# A teammate without the filter commits weights whole
git clone -q host.git dan
cd dan
mkdir dan-1 && cp "$MODEL" dan-1/model.safetensors
GIT_CONFIG_GLOBAL=/dev/null git -c filter.theta.process= -c filter.theta.clean=cat -c filter.theta.required=false \
  -c user.name=Dan -c user.email=dan@example.com add dan-1 || true
GIT_CONFIG_GLOBAL=/dev/null git -c user.name=Dan -c user.email=dan@example.com commit -q --no-verify -m 'dan 1' || true
if [ -n "$(git ls-files dan-1)" ]; then
  refused git theta check --base origin/main HEAD
  git theta status || true
  git add --renormalize . && git commit -q --amend --no-edit
  git theta check --base origin/main HEAD
fi
cd ..

# Damage, and what brings it back
cd ben
pack=$(find .git/theta -name '*.pack' | sort | head -n 1)
chmod u+w "$pack"
python3 - "$pack" <<'END'
import os, sys
middle = os.path.getsize(sys.argv[1]) // 2
with open(sys.argv[1], "r+b") as stream:
    stream.seek(middle)
    stream.write(b"\xff" * 4096)
END
refused git theta fsck
git theta fsck --repair
git theta fsck
git theta repack
git theta doctor
