data "aws_caller_identity" "own" {}

data "aws_partition" "here" {}

# One key for all that is kept: Kubernetes' secrets, disks, images, logs.
resource "aws_kms_key" "lab" {
  description             = "${var.cluster_name}: secrets, disks, images and logs"
  enable_key_rotation     = true
  deletion_window_in_days = 7
  policy                  = data.aws_iam_policy_document.key.json
}

resource "aws_kms_alias" "lab" {
  name          = "alias/${var.cluster_name}"
  target_key_id = aws_kms_key.lab.key_id
}

data "aws_iam_policy_document" "key" {
  # A key's policy speaks of this key alone, whatever its resource says; without its account nobody could administer it.
  #checkov:skip=CKV_AWS_109:the policy is the key's own
  #checkov:skip=CKV_AWS_111:the policy is the key's own
  #checkov:skip=CKV_AWS_356:the policy is the key's own
  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${data.aws_partition.here.partition}:iam::${data.aws_caller_identity.own.account_id}:root"]
    }
  }

  statement {
    sid       = "Logs"
    actions   = ["kms:Encrypt*", "kms:Decrypt*", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["logs.${var.region}.amazonaws.com"]
    }

    condition {
      test     = "ArnLike"
      variable = "kms:EncryptionContext:aws:logs:arn"
      values = [
        "arn:${data.aws_partition.here.partition}:logs:${var.region}:${data.aws_caller_identity.own.account_id}:log-group:/streamlab/${var.cluster_name}/*",
        "arn:${data.aws_partition.here.partition}:logs:${var.region}:${data.aws_caller_identity.own.account_id}:log-group:/aws/eks/${var.cluster_name}/*",
      ]
    }
  }
}
